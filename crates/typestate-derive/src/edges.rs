//! The edges: per name a trait that tells the phases it leaves, and one method for all phases, bounded by it.
//!
//! The method exists in every phase as far as name lookup is concerned, so a call in a wrong one fails at the bound, whose
//! text is ours, rather than at "no method named ..", whose text is not. Where all edges of a name return the same type,
//! the method selects the body by a value (`..Source`) instead of a trait method: its future then shows whether it
//! is `Send`, as a trait's could not.

use proc_macro2::{Ident, TokenStream};
use quote::{format_ident, quote};

use crate::diagram;
use crate::model::{Edge, Family, Machine};

/// The name under which the user's body lives on.
pub(crate) fn body_name(name: &Ident) -> Ident {
    format_ident!("__edge_{name}", span = name.span())
}

/// The method that a caller sees.
pub(crate) fn method(machine: &Machine, family: &Family<'_>, param: Option<&Ident>) -> TokenStream {
    let Machine { ident, .. } = machine;
    let name = family.name;
    let signature = &family.edges[0].signature;
    let vis = &signature.vis;
    let (generics, _, filter) = signature.generics.split_for_impl();
    let filter = filter.map(|filter| &filter.predicates);
    let (args, types): (Vec<_>, Vec<_>) = signature.args.iter().map(|(name, ty)| (name, ty)).unzip();
    let bound = trait_name(name);
    let attrs = attributes(machine, family);
    let clause = quote!(where #param: #bound, #filter);
    let Some(output) = family.shared_output() else {
        let output = quote!(<#param as #bound>::Output);
        let output = if signature.is_async { send_future(&output) } else { output };
        return quote! {
            #attrs
            #vis fn #name #generics (self, #(#args: #types),*) -> #output #clause {
                <#param as #bound>::__take(self, #(#args),*)
            }
        };
    };
    let body = body_name(name);
    let source = quote!(<#param as #bound>::__source(self));
    if let [edge] = family.edges[..] {
        let from = &machine.phase(edge.from).ident;
        let output = if signature.is_async {
            quote!(impl ::core::future::Future<Output = #output>)
        } else {
            output.clone()
        };
        return quote! {
            #attrs
            #vis fn #name #generics (self, #(#args: #types),*) -> #output #clause {
                #ident::<#from>::#body(#source, #(#args),*)
            }
        };
    }
    let (asyncness, wait) =
        if signature.is_async { (quote!(async), quote!(.await)) } else { Default::default() };
    let sources = source_name(name);
    let arms = family.edges.iter().map(|edge| {
        let from = &machine.phase(edge.from).ident;
        quote!(#sources::#from(machine) => #ident::<#from>::#body(machine, #(#args),*) #wait)
    });
    quote! {
        #attrs
        #vis #asyncness fn #name #generics (self, #(#args: #types),*) -> #output #clause {
            match #source { #(#arms,)* }
        }
    }
}

/// Per edge name, the trait behind the method's bound and its impls.
pub(crate) fn traits(machine: &Machine) -> TokenStream {
    machine.families().iter().map(|family| edge_trait(machine, family)).collect()
}

fn edge_trait(machine: &Machine, family: &Family<'_>) -> TokenStream {
    let Machine { ident, vis, .. } = machine;
    let name = family.name;
    let trait_name = trait_name(name);
    let sources = diagram::sources(machine, family);
    let doc = format!("The phases that [`{ident}::{name}`] leaves: {sources}.");
    let message = format!("`{ident}` cannot `{name}` from phase `{{Self}}`");
    let label = format!("`{name}` leaves only {sources}");
    let notes = (0..machine.phases.len()).map(|phase| diagram::edges_out(machine, phase));
    let head = quote! {
        #[doc = #doc]
        #[diagnostic::on_unimplemented(message = #message, label = #label, #(note = #notes),*)]
        #vis trait #trait_name: Phase
    };
    if family.shared_output().is_none() {
        return diverging(machine, family, &head);
    }
    if let [edge] = family.edges[..] {
        let from = &machine.phase(edge.from).ident;
        return quote! {
            #head {
                #[doc(hidden)]
                fn __source(machine: #ident<Self>) -> #ident<#from>;
            }
            impl #trait_name for #from {
                fn __source(machine: #ident<Self>) -> #ident<#from> { machine }
            }
        };
    }
    let source = source_name(name);
    let froms: Vec<&Ident> = family.edges.iter().map(|edge| &machine.phase(edge.from).ident).collect();
    quote! {
        #[doc(hidden)]
        #[allow(missing_debug_implementations)]
        #vis enum #source { #(#froms(#ident<#froms>),)* }
        #head {
            #[doc(hidden)]
            fn __source(machine: #ident<Self>) -> #source;
        }
        #(impl #trait_name for #froms {
            fn __source(machine: #ident<Self>) -> #source { #source::#froms(machine) }
        })*
    }
}

/// Edges of one name with different results: the trait carries the result and the body.
fn diverging(machine: &Machine, family: &Family<'_>, head: &TokenStream) -> TokenStream {
    let Machine { ident, .. } = machine;
    let (trait_name, body) = (trait_name(family.name), body_name(family.name));
    let take = |edge: &Edge, output: TokenStream| {
        let signature = &edge.signature;
        let (generics, _, filter) = signature.generics.split_for_impl();
        let args = signature.args.iter().map(|(name, ty)| quote!(#name: #ty));
        let output = if signature.is_async { send_future(&output) } else { output };
        quote!(fn __take #generics (machine: #ident<Self>, #(#args),*) -> #output #filter)
    };
    let declared = take(family.edges[0], quote!(Self::Output));
    let impls = family.edges.iter().map(|edge| {
        let (from, output) = (&machine.phase(edge.from).ident, &edge.signature.output);
        let defined = take(edge, output.clone());
        let args = edge.signature.args.iter().map(|(name, _)| name);
        quote! {
            impl #trait_name for #from {
                type Output = #output;
                #defined { #ident::<#from>::#body(machine, #(#args),*) }
            }
        }
    });
    quote! {
        #head {
            /// What the edge returns from this phase.
            type Output;
            #[doc(hidden)]
            #declared;
        }
        #(#impls)*
    }
}

fn attributes(machine: &Machine, family: &Family<'_>) -> TokenStream {
    let outer = family.edges.iter().flat_map(|edge| &edge.outer);
    let line = diagram::doc_line(machine, family);
    let own = family.edges.iter().any(|edge| edge.outer.iter().any(|attr| attr.path().is_ident("must_use")));
    let must_use = (!own).then(|| {
        let message = format!("`{}` consumed the machine: this is its next phase", family.name);
        quote!(#[must_use = #message])
    });
    quote!(#(#outer)* #[doc = ""] #[doc = #line] #must_use)
}

fn send_future(output: &TokenStream) -> TokenStream {
    quote!(impl ::core::future::Future<Output = #output> + ::core::marker::Send)
}

fn trait_name(name: &Ident) -> Ident {
    format_ident!("{}Edge", camel(name), span = name.span())
}

fn source_name(name: &Ident) -> Ident {
    format_ident!("{}Source", camel(name))
}

fn camel(name: &Ident) -> String {
    let name = name.to_string();
    let words = name.trim_start_matches("r#").split('_').map(|word| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    });
    words.collect()
}
