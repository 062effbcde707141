//! The edges: the user's functions stay as they are; the phases that an edge does not leave gain a hidden method of its
//! name whose bound no caller can meet.
//!
//! Without it, a call in a wrong phase would fail with "no method named ..", and nothing could be said about the graph. With
//! it, name lookup succeeds and the bound fails, with the text of `#[diagnostic::on_unimplemented]`. (One generic method
//! per name, bounded by a trait, was the other way: it forwards to moved bodies, has to erase whether a future is `Send`,
//! and reports each asynchronous misuse three times, since an opaque type inherits the bound.)

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{ImplItem, Item, parse_quote};

use crate::diagram;
use crate::expand::nested;
use crate::model::{Edge, Family, Machine, PhaseIndex};

/// Documents the user's function as an edge, and warns whoever drops its result.
pub(crate) fn dress(items: &mut [Item], machine: &Machine, edge: &Edge) {
    let (item, function) = edge.place;
    let Some(Item::Impl(block)) = items.get_mut(item) else { return };
    let Some(ImplItem::Fn(function)) = block.items.get_mut(function) else { return };
    let line = diagram::doc_line(machine, edge);
    function.attrs.push(parse_quote!(#[doc = ""]));
    function.attrs.push(parse_quote!(#[doc = #line]));
    if !function.attrs.iter().any(|attr| attr.path().is_ident("must_use")) {
        let message = format!("`{}` consumed the machine: this is its next phase", edge.name);
        function.attrs.push(parse_quote!(#[must_use = #message]));
    }
}

/// For every phase, the methods of the edges that do not leave it. Each has a bound of its own, so that its text can name
/// the phase that the caller is in.
pub(crate) fn refusals(machine: &Machine) -> TokenStream {
    let families = machine.families();
    let refused = |phase| families.iter().filter(move |family| !taken(machine, family, phase));
    let phases = 0..machine.phases.len();
    let bounds =
        phases.clone().flat_map(|phase| refused(phase).map(move |family| bound(machine, family, phase)));
    let impls = phases.map(|phase| {
        let methods = refused(phase).map(|family| refusal(machine, family, phase));
        let (ident, from) = (&machine.ident, &machine.phase(phase).ident);
        quote! {
            // Lints judge the edge itself, where the user can answer them.
            #[doc(hidden)]
            #[allow(warnings, clippy::all, clippy::pedantic)]
            impl #ident<#from> { #(#methods)* }
        }
    });
    quote! {
        mod __edges {
            #(#bounds)*
        }
        #(#impls)*
    }
}

fn taken(machine: &Machine, family: &Family<'_>, phase: PhaseIndex) -> bool {
    family.edges.iter().any(|edge| edge.from == phase)
        || machine.plain.iter().any(|(name, at)| name == family.name && *at == Some(phase))
}

/// A trait that no phase implements, for the sake of its text. The unit type does, or the compiler would suggest an impl.
fn bound(machine: &Machine, family: &Family<'_>, phase: PhaseIndex) -> TokenStream {
    let (ident, name, from) = (&machine.ident, family.name, &machine.phase(phase).ident);
    let trait_name = bound_name(family, from);
    let vis = nested(&machine.vis);
    let message = format!("`{ident}` cannot `{name}` from phase `{from}`");
    let label = format!("`{name}` leaves only {}", diagram::sources(machine, family));
    let others = (0..machine.phases.len()).filter(|other| *other != phase);
    let notes = std::iter::once(phase).chain(others).map(|phase| diagram::edges_out(machine, phase));
    quote! {
        #[diagnostic::on_unimplemented(message = #message, label = #label, #(note = #notes),*)]
        #vis trait #trait_name {}
        #[diagnostic::do_not_recommend]
        impl #trait_name for () {}
    }
}

/// Takes what the edge takes and claims to return what it returns, so that the bound is the only thing that fails.
fn refusal(machine: &Machine, family: &Family<'_>, phase: PhaseIndex) -> TokenStream {
    let signature = &family.edges[0].signature;
    let from = &machine.phase(phase).ident;
    let vis = &signature.vis;
    let types = &signature.args;
    let (generics, _, filter) = signature.generics.split_for_impl();
    let filter = filter.map(|filter| &filter.predicates);
    let bound = bound_name(family, from);
    let bounds = format_ident!("__edges", span = family.name.span());
    let mut name = family.name.clone();
    // Points at the edge, yet counts as generated, so that lints do not judge it.
    name.set_span(name.span().resolved_at(Span::call_site()));
    let output = &signature.output;
    // A future with a name: an opaque one would inherit the bound, and repeat its failure at `.await`.
    let output = if signature.is_async { quote!(::core::future::Ready<#output>) } else { output.clone() };
    quote! {
        #vis fn #name #generics (self, #(_: #types),*) -> #output
        where
            // The binder keeps the compiler from judging the bound here rather than at the call.
            for<'__call> #from: #bounds::#bound,
            #filter
        {
            ::core::unreachable!()
        }
    }
}

/// `StopFromBooting`
fn bound_name(family: &Family<'_>, from: &Ident) -> Ident {
    let words = family.name.to_string();
    let words = words.trim_start_matches("r#").split('_').map(|word| {
        let mut chars = word.chars();
        chars.next().map(|first| first.to_ascii_uppercase().to_string() + chars.as_str()).unwrap_or_default()
    });
    format_ident!("{}From{from}", words.collect::<String>(), span = family.name.span())
}
