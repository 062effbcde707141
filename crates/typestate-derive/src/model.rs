//! The machine as the declaration says it: phases, edges, and where in the module they stand.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Attribute, Generics, Type, Visibility};

/// Index into [`Machine::phases`].
pub(crate) type PhaseIndex = usize;

pub(crate) struct Machine {
    pub(crate) ident: Ident,
    pub(crate) vis: Visibility,
    /// Where the struct stands among the module's items.
    pub(crate) item: usize,
    pub(crate) initial: PhaseIndex,
    pub(crate) phases: Vec<Phase>,
    pub(crate) edges: Vec<Edge>,
    /// Functions of the machine that are not edges, with their phase, or `None` where they belong to all.
    pub(crate) plain: Vec<(Ident, Option<PhaseIndex>)>,
}

pub(crate) struct Phase {
    pub(crate) ident: Ident,
    pub(crate) terminal: bool,
    pub(crate) docs: Vec<Attribute>,
}

pub(crate) struct Edge {
    pub(crate) name: Ident,
    pub(crate) from: PhaseIndex,
    pub(crate) to: PhaseIndex,
    pub(crate) fails: Option<Type>,
    /// (item of the module, item of that impl block): where the function stands.
    pub(crate) place: (usize, usize),
    pub(crate) signature: Signature,
}

/// What a call of an edge looks like, with `Self` written out.
pub(crate) struct Signature {
    pub(crate) vis: Visibility,
    pub(crate) is_async: bool,
    pub(crate) generics: Generics,
    pub(crate) args: Vec<TokenStream>,
    pub(crate) output: TokenStream,
}

/// All edges of one name.
pub(crate) struct Family<'m> {
    pub(crate) name: &'m Ident,
    pub(crate) edges: Vec<&'m Edge>,
}

impl Machine {
    pub(crate) fn phase(&self, index: PhaseIndex) -> &Phase {
        &self.phases[index]
    }

    pub(crate) fn edges_from(&self, phase: PhaseIndex) -> impl Iterator<Item = &Edge> {
        self.edges.iter().filter(move |edge| edge.from == phase)
    }

    /// Edges grouped by name, in order of declaration.
    pub(crate) fn families(&self) -> Vec<Family<'_>> {
        let mut families: Vec<Family<'_>> = Vec::new();
        for edge in &self.edges {
            match families.iter_mut().find(|family| *family.name == edge.name) {
                Some(family) => family.edges.push(edge),
                None => families.push(Family { name: &edge.name, edges: vec![edge] }),
            }
        }
        families
    }

    /// Which phases are reached when edges are followed from `start`, forwards or backwards.
    pub(crate) fn reached(&self, start: impl IntoIterator<Item = PhaseIndex>, forwards: bool) -> Vec<bool> {
        let mut seen = vec![false; self.phases.len()];
        let mut work: Vec<PhaseIndex> = start.into_iter().collect();
        while let Some(phase) = work.pop() {
            if std::mem::replace(&mut seen[phase], true) {
                continue;
            }
            for edge in &self.edges {
                let (tail, head) = if forwards { (edge.from, edge.to) } else { (edge.to, edge.from) };
                if tail == phase {
                    work.push(head);
                }
            }
        }
        seen
    }
}

impl Edge {
    pub(crate) fn fails_text(&self) -> Option<String> {
        self.fails.as_ref().map(text)
    }
}

/// Tokens as a person writes them. The compiler's own rendering depends on the source's spacing, so it cannot be compared.
pub(crate) fn text(tokens: impl ToTokens) -> String {
    fn write(out: &mut String, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => {
                    let (open, close) = match group.delimiter() {
                        proc_macro2::Delimiter::Parenthesis => ("(", ")"),
                        proc_macro2::Delimiter::Brace => ("{", "}"),
                        proc_macro2::Delimiter::Bracket => ("[", "]"),
                        proc_macro2::Delimiter::None => ("", ""),
                    };
                    out.push_str(open);
                    write(out, group.stream());
                    out.push_str(close);
                }
                TokenTree::Punct(punct) if punct.as_char() == ',' => out.push_str(", "),
                TokenTree::Punct(punct) => out.push(punct.as_char()),
                word => {
                    if out.ends_with(|last: char| last.is_alphanumeric() || last == '_') {
                        out.push(' ');
                    }
                    out.push_str(&word.to_string());
                }
            }
        }
    }
    let mut out = String::new();
    write(&mut out, tokens.into_token_stream());
    out
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::text;

    #[test]
    fn text_reads_as_written_whatever_the_spacing() {
        for (tokens, expect) in [
            (quote!(Result<Runner<Running>, BootFailure>), "Result<Runner<Running>, BootFailure>"),
            (quote!(Box<dyn std::error::Error + Send>), "Box<dyn std::error::Error+Send>"),
            (quote!(&'static mut [u8; 4]), "&'static mut[u8;4]"),
            (quote!(pub(crate)), "pub(crate)"),
        ] {
            assert_eq!(text(tokens), expect);
        }
    }
}
