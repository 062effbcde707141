//! From the [`Machine`] to the code that the module gains.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};
use syn::{GenericParam, Item, ItemMod, ItemStruct, Visibility, parse_quote};

use crate::model::{Machine, text};
use crate::{check, diagram, edges, parse};

/// The whole macro. Findings come with the module as plain Rust, so that they are not buried under errors that follow from them.
pub(crate) fn typestate(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut module: ItemMod = match syn::parse2(item) {
        Ok(module) => module,
        Err(error) => {
            let help = syn::Error::new(error.span(), "`#[typestate]` goes on a module: `mod name { .. }`");
            return help.into_compile_error();
        }
    };
    if !args.is_empty() {
        let error =
            syn::Error::new_spanned(args, "`#[typestate]` takes no arguments; they go on `#[machine(..)]`");
        let error = error.into_compile_error();
        return quote!(#error #module);
    }
    let machine = match parse::parse(&mut module) {
        Ok(machine) => machine,
        Err(error) => {
            let error = error.into_compile_error();
            return quote!(#error #module);
        }
    };
    let findings = check::check(&machine).err().map(syn::Error::into_compile_error);
    extend(&mut module, &machine);
    quote!(#findings #module)
}

fn extend(module: &mut ItemMod, machine: &Machine) {
    let Some((_, items)) = &mut module.content else { return };
    for edge in &machine.edges {
        edges::dress(items, machine, edge);
    }
    let Some(Item::Struct(item)) = items.get_mut(machine.item) else { return };
    dress_struct(item, machine);
    let item = item.clone();
    for tokens in [
        phases(machine),
        graph(machine),
        methods(machine, &item),
        edges::refusals(machine),
        no_drop(machine, &item),
    ] {
        items.push(Item::Verbatim(tokens));
    }
}

fn dress_struct(item: &mut ItemStruct, machine: &Machine) {
    if let Some(GenericParam::Type(param)) = item.generics.params.first_mut() {
        param.bounds.push(parse_quote!(Phase));
    }
    let diagram = format!("\n# Phases\n\n```mermaid\n{}```", diagram::mermaid(machine));
    item.attrs.push(parse_quote!(#[doc = #diagram]));
    if !item.attrs.iter().any(|attr| attr.path().is_ident("must_use")) {
        let message =
            format!("a `{}` that is dropped never reaches its last phase; move it along an edge", item.ident);
        item.attrs.push(parse_quote!(#[must_use = #message]));
    }
}

/// The sealed trait, and the phases as runtime values.
fn phases(machine: &Machine) -> TokenStream {
    let Machine { ident, vis, .. } = machine;
    let nested = nested(vis);
    let names: Vec<&Ident> = machine.phases.iter().map(|phase| &phase.ident).collect();
    let strings = names.iter().map(|name| name.to_string());
    let terminal = machine.phases.iter().filter(|phase| phase.terminal).map(|phase| &phase.ident);
    let variants = machine.phases.iter().map(|phase| {
        let (name, docs) = (&phase.ident, &phase.docs);
        let fallback = docs.is_empty().then(|| {
            let doc = format!("The phase `{name}`.");
            quote!(#[doc = #doc])
        });
        quote!(#(#docs)* #fallback #name)
    });
    let trait_doc = format!("A phase of [`{ident}`]. Sealed: the phases are those of this module.");
    let enum_doc =
        format!("The phases of [`{ident}`] as values, for logs, status and whoever cannot name the types.");
    quote! {
        mod __sealed {
            #nested trait Sealed {}
        }
        #(impl __sealed::Sealed for #names {})*

        #[doc = #trait_doc]
        #vis trait Phase: __sealed::Sealed + ::core::marker::Sized {
            /// This phase as a value.
            const ID: PhaseId;
        }
        #(impl Phase for #names {
            const ID: PhaseId = PhaseId::#names;
        })*

        #[doc = #enum_doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #vis enum PhaseId { #(#variants,)* }

        impl PhaseId {
            /// Every phase, in order of declaration.
            pub const ALL: &'static [Self] = &[#(Self::#names,)*];

            /// The phase's name, as in the code.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { #(Self::#names => #strings,)* }
            }

            /// Whether the machine ends here: no edge leaves this phase.
            #[must_use]
            pub const fn is_terminal(self) -> bool {
                ::core::matches!(self, #(Self::#terminal)|*)
            }
        }

        impl ::core::fmt::Display for PhaseId {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.pad(self.as_str())
            }
        }
    }
}

/// The edges and the diagram as data.
fn graph(machine: &Machine) -> TokenStream {
    let Machine { ident, vis, .. } = machine;
    let edges = machine.edges.iter().map(|edge| {
        let name = edge.name.to_string();
        let (from, to) = (&machine.phase(edge.from).ident, &machine.phase(edge.to).ident);
        let fails = match edge.fails_text() {
            Some(fails) => quote!(::core::option::Option::Some(#fails)),
            None => quote!(::core::option::Option::None),
        };
        quote!(Edge { name: #name, from: PhaseId::#from, to: PhaseId::#to, fails: #fails })
    });
    let mermaid = diagram::mermaid(machine);
    let edge_doc = format!("One transition of [`{ident}`], as data.");
    let edges_doc = format!("Every transition of [`{ident}`], in order of declaration.");
    let mermaid_doc = format!("The phases and edges of [`{ident}`] as a Mermaid `stateDiagram-v2`.");
    quote! {
        #[doc = #edge_doc]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #vis struct Edge {
            /// The method that takes this edge.
            pub name: &'static str,
            /// The phase it consumes.
            pub from: PhaseId,
            /// The phase it returns.
            pub to: PhaseId,
            /// The type it returns instead when it fails.
            pub fails: ::core::option::Option<&'static str>,
        }

        #[doc = #edges_doc]
        #vis const EDGES: &[Edge] = &[#(#edges,)*];

        #[doc = #mermaid_doc]
        #vis const MERMAID: &str = #mermaid;
    }
}

fn methods(machine: &Machine, item: &ItemStruct) -> TokenStream {
    let (ident, vis) = (&machine.ident, &machine.vis);
    let (impl_generics, ty_generics, filter) = item.generics.split_for_impl();
    let param = item.generics.type_params().next().map(|param| &param.ident);
    quote! {
        impl #impl_generics #ident #ty_generics #filter {
            /// The phase that this machine is in, as a value.
            #[must_use]
            #vis fn phase_id(&self) -> PhaseId {
                <#param as Phase>::ID
            }
        }
    }
}

/// A `Drop` impl outside the module is not in our input; this makes it a conflict whose text says what to do.
fn no_drop(machine: &Machine, item: &ItemStruct) -> TokenStream {
    let ident = &machine.ident;
    let (impl_generics, ty_generics, filter) = item.generics.split_for_impl();
    let name = format_ident!("MachineMustNotImplementDropSoPutItOnAnInnerGuard", span = ident.span());
    quote! {
        const _: () = {
            trait #name {}
            #[allow(drop_bounds)]
            impl<T: ::core::ops::Drop + ?::core::marker::Sized> #name for T {}
            impl #impl_generics #name for #ident #ty_generics #filter {}
        };
    }
}

/// The same reach, written one module further in.
pub(crate) fn nested(vis: &Visibility) -> TokenStream {
    match vis {
        Visibility::Inherited => quote!(pub(super)),
        Visibility::Restricted(restricted) if restricted.path.is_ident("self") => quote!(pub(super)),
        Visibility::Restricted(restricted) if text(&restricted.path).starts_with("super") => {
            let path = &restricted.path;
            quote!(pub(in super::#path))
        }
        other => quote!(#other),
    }
}
