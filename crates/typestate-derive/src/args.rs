//! The arguments of `#[machine(..)]` and `#[edge(..)]`.

use syn::parse::{Parse, ParseStream};
use syn::punctuated::Punctuated;
use syn::{Ident, Token, Type, bracketed, token};

pub(crate) struct MachineArgs {
    pub(crate) initial: Ident,
    pub(crate) terminal: Vec<Ident>,
}

pub(crate) struct EdgeArgs {
    pub(crate) to: Ident,
    pub(crate) fails: Option<Type>,
}

impl Parse for MachineArgs {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let whole = input.span();
        let (mut initial, mut terminal) = (None, Vec::new());
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            if key == "initial" {
                initial = Some(input.parse()?);
            } else if key == "terminal" {
                terminal = phases(input)?;
            } else {
                return Err(syn::Error::new_spanned(key, "expected `initial = ..` or `terminal = [..]`"));
            }
            comma(input)?;
        }
        let help = "write `#[machine(initial = FirstPhase, terminal = [LastPhase])]`";
        match initial {
            None => Err(syn::Error::new(whole, format!("a machine starts somewhere: {help}"))),
            Some(_) if terminal.is_empty() => {
                Err(syn::Error::new(whole, format!("a machine ends somewhere: {help}")))
            }
            Some(initial) => Ok(Self { initial, terminal }),
        }
    }
}

impl Parse for EdgeArgs {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let whole = input.span();
        let (mut to, mut fails) = (None, None);
        while !input.is_empty() {
            let key: Ident = input.parse()?;
            input.parse::<Token![=]>()?;
            if key == "to" {
                if input.peek(token::Bracket) {
                    return Err(input
                        .error("an edge has one target; declare one edge per target and branch before it"));
                }
                to = Some(input.parse()?);
            } else if key == "fails" {
                fails = Some(input.parse()?);
            } else {
                return Err(syn::Error::new_spanned(key, "expected `to = Phase` or `fails = Type`"));
            }
            comma(input)?;
        }
        let to = to.ok_or_else(|| {
            syn::Error::new(
                whole,
                "an edge leads somewhere: write `#[edge(to = Phase)]` or `#[edge(to = Phase, fails = Type)]`",
            )
        })?;
        Ok(Self { to, fails })
    }
}

fn phases(input: ParseStream<'_>) -> syn::Result<Vec<Ident>> {
    if !input.peek(token::Bracket) {
        return Ok(vec![input.parse()?]);
    }
    let list;
    bracketed!(list in input);
    Ok(Punctuated::<Ident, Token![,]>::parse_terminated(&list)?.into_iter().collect())
}

fn comma(input: ParseStream<'_>) -> syn::Result<()> {
    if !input.is_empty() {
        input.parse::<Token![,]>()?;
    }
    Ok(())
}
