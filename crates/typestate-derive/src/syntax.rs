//! Small questions about syntax.

use proc_macro2::{Group, Ident, TokenStream, TokenTree};
use quote::quote;
use syn::{Attribute, GenericArgument, PathArguments, Type};

use crate::check::Findings;

/// Removes the attribute `name`, so that what stays is plain Rust.
pub(crate) fn take(attrs: &mut Vec<Attribute>, name: &str) -> Option<Attribute> {
    let at = attrs.iter().position(|attr| attr.path().is_ident(name))?;
    Some(attrs.remove(at))
}

pub(crate) fn docs(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|attr| attr.path().is_ident("doc")).cloned().collect()
}

/// The graph is judged at expansion, when `cfg` on its parts is not decided yet.
pub(crate) fn unconditional(attrs: &[Attribute], findings: &mut Findings) {
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("cfg")) {
        findings.push(
            attr,
            "a machine's parts cannot be conditional; put the `cfg` inside the body or on the module",
        );
    }
}

/// `X` of `Machine<X>`.
pub(crate) fn argument_of<'t>(ty: &'t Type, machine: &Ident) -> Option<&'t Type> {
    match &arguments(ty)? {
        (ident, args) if *ident == machine => match args[..] {
            [GenericArgument::Type(phase)] => Some(phase),
            _ => None,
        },
        _ => None,
    }
}

/// `(T, E)` of `Result<T, E>`.
pub(crate) fn result_of(ty: &Type) -> Option<(&Type, &Type)> {
    match &arguments(ty)? {
        (ident, args) if *ident == "Result" => match args[..] {
            [GenericArgument::Type(ok), GenericArgument::Type(error)] => Some((ok, error)),
            _ => None,
        },
        _ => None,
    }
}

fn arguments(ty: &Type) -> Option<(&Ident, Vec<&GenericArgument>)> {
    let Type::Path(path) = ty else { return None };
    let last = path.path.segments.last()?;
    let PathArguments::AngleBracketed(args) = &last.arguments else { return None };
    Some((&last.ident, args.args.iter().collect()))
}

pub(crate) fn last_ident(ty: &Type) -> Option<&Ident> {
    let Type::Path(path) = ty else { return None };
    path.path.segments.last().map(|last| &last.ident)
}

/// `Self` means another type in the method that stands for all phases.
pub(crate) fn write_out_self(tokens: TokenStream, machine: &Ident, phase: &Ident) -> TokenStream {
    tokens
        .into_iter()
        .flat_map(|token| match token {
            TokenTree::Ident(ident) if ident == "Self" => quote!(#machine<#phase>),
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), write_out_self(group.stream(), machine, phase));
                inner.set_span(group.span());
                TokenTree::Group(inner).into()
            }
            other => other.into(),
        })
        .collect()
}
