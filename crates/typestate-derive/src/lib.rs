//! typestate-derive
mod args;
mod check;
mod diagram;
mod edges;
mod expand;
mod model;
mod parse;
mod syntax;

use proc_macro::TokenStream;

/// Turns a module into a machine.
#[proc_macro_attribute]
pub fn typestate(args: TokenStream, item: TokenStream) -> TokenStream {
    expand::typestate(args.into(), item.into()).into()
}
