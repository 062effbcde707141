//! From the module's syntax to the [`Machine`]. Takes our attributes out, so that what is left is plain Rust.

use proc_macro2::{Ident, TokenStream};
use quote::ToTokens;
use syn::{
    FnArg, GenericParam, ImplItem, ImplItemFn, Item, ItemImpl, ItemMod, ReturnType, Type, Visibility,
    parse_quote,
};

use crate::args::{EdgeArgs, MachineArgs};
use crate::check::Findings;
use crate::model::{Edge, Machine, Phase, PhaseIndex, Signature, text};
use crate::syntax::{argument_of, docs, last_ident, result_of, take, unconditional, write_out_self};

/// Strips `module` of our attributes and reads the machine from them.
pub(crate) fn parse(module: &mut ItemMod) -> syn::Result<Machine> {
    let mut findings = Findings::default();
    let Some((_, items)) = &mut module.content else {
        return Err(syn::Error::new_spanned(
            module,
            "`#[typestate]` needs the module's body: write `mod name { .. }`",
        ));
    };
    let phases = phases(items, &mut findings);
    let head = head(&module.ident, items, &mut findings);
    let edges = take_edges(items, &mut findings);
    let Some(head) = head else {
        return Err(findings.into_error(&module.ident));
    };
    let mut machine = resolve(head, phases, &mut findings);
    for (at, item) in items.iter().enumerate() {
        if let Item::Impl(block) = item {
            block_of(&mut machine, at, block, &edges, &mut findings);
        }
    }
    findings.into_result().map(|()| machine)
}

struct Head {
    ident: Ident,
    vis: Visibility,
    item: usize,
    args: MachineArgs,
}

/// An `#[edge(..)]` taken off the function `function` of the item `item`.
struct Mark {
    item: usize,
    function: usize,
    args: Option<EdgeArgs>,
}

fn phases(items: &mut [Item], findings: &mut Findings) -> Vec<Phase> {
    let mut phases = Vec::new();
    for item in items {
        let (attrs, ident, generics) = match item {
            Item::Struct(item) => (&mut item.attrs, &item.ident, &item.generics),
            Item::Enum(item) => (&mut item.attrs, &item.ident, &item.generics),
            _ => continue,
        };
        if take(attrs, "phase").is_none() {
            continue;
        }
        if !generics.params.is_empty() {
            findings.push(generics, format!("phase `{ident}` cannot be generic; box or fix what varies"));
        }
        unconditional(attrs, findings);
        phases.push(Phase { ident: ident.clone(), terminal: false, docs: docs(attrs) });
    }
    phases
}

fn head(module: &Ident, items: &mut [Item], findings: &mut Findings) -> Option<Head> {
    let mut head: Option<Head> = None;
    let mut found = false;
    for (at, item) in items.iter_mut().enumerate() {
        let Item::Struct(item) = item else { continue };
        let Some(attr) = take(&mut item.attrs, "machine") else { continue };
        let ident = &item.ident;
        if found {
            findings.push(
                ident,
                format!("`{ident}` is a second machine; give it a `#[typestate]` module of its own"),
            );
            continue;
        }
        found = true;
        unconditional(&item.attrs, findings);
        let params: Vec<&GenericParam> = item.generics.params.iter().collect();
        if !matches!(params[..], [GenericParam::Type(_)]) {
            findings.push(
                ident,
                format!("a machine has exactly one type parameter, its phase: write `struct {ident}<P> {{ .., phase: P }}`"),
            );
            continue;
        }
        match attr.parse_args::<MachineArgs>() {
            Ok(args) => head = Some(Head { ident: ident.clone(), vis: item.vis.clone(), item: at, args }),
            Err(error) => findings.add(error),
        }
    }
    if !found {
        findings.push(
            module,
            format!(
                "module `{module}` has no machine; \
                 mark its struct `#[machine(initial = FirstPhase, terminal = [LastPhase])]`"
            ),
        );
    }
    head
}

fn take_edges(items: &mut [Item], findings: &mut Findings) -> Vec<Mark> {
    let mut marks = Vec::new();
    for (item, block) in items.iter_mut().enumerate() {
        let Item::Impl(block) = block else { continue };
        for (function, member) in block.items.iter_mut().enumerate() {
            let ImplItem::Fn(member) = member else { continue };
            let Some(attr) = take(&mut member.attrs, "edge") else { continue };
            let args = attr.parse_args().map_err(|error| findings.add(error)).ok();
            marks.push(Mark { item, function, args });
        }
    }
    marks
}

fn resolve(head: Head, phases: Vec<Phase>, findings: &mut Findings) -> Machine {
    let Head { ident, vis, item, args } = head;
    let mut machine = Machine { ident, vis, item, initial: 0, phases, edges: Vec::new(), plain: Vec::new() };
    match lookup(&machine, &args.initial) {
        Ok(initial) => machine.initial = initial,
        Err(error) => findings.add(error),
    }
    for terminal in &args.terminal {
        match lookup(&machine, terminal) {
            Ok(index) => machine.phases[index].terminal = true,
            Err(error) => findings.add(error),
        }
    }
    machine
}

fn lookup(machine: &Machine, name: &Ident) -> syn::Result<PhaseIndex> {
    machine.phases.iter().position(|phase| phase.ident == *name).ok_or_else(|| {
        let known: Vec<String> = machine.phases.iter().map(|phase| format!("`{}`", phase.ident)).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        syn::Error::new_spanned(
            name,
            format!(
                "unknown phase `{name}`; mark its type `#[phase]` in this module (phases so far: {known})"
            ),
        )
    })
}

/// Reads one impl block: edges, plain functions, and the one trait that a machine must not have.
fn block_of(machine: &mut Machine, at: usize, block: &ItemImpl, marks: &[Mark], findings: &mut Findings) {
    let ours = argument_of(&block.self_ty, &machine.ident);
    if let (Some((_, path, _)), Some(_)) = (&block.trait_, &ours)
        && path.segments.last().is_some_and(|last| last.ident == "Drop")
    {
        findings.push(
            path,
            format!(
                "`{}` cannot implement `Drop`: an edge moves the fields out of `self`, which `Drop` forbids (E0509); \
                 put the `Drop` on an inner guard, a field that is idempotent and never blocks",
                machine.ident
            ),
        );
    }
    if marks.iter().any(|mark| mark.item == at) {
        unconditional(&block.attrs, findings);
    }
    let ours = ours.filter(|_| block.trait_.is_none());
    let from = ours.filter(|_| block.generics.params.is_empty()).and_then(last_ident);
    let from = from.and_then(|phase| lookup(machine, phase).ok());
    for (index, member) in block.items.iter().enumerate() {
        let ImplItem::Fn(function) = member else { continue };
        let name = &function.sig.ident;
        let Some(mark) = marks.iter().find(|mark| (mark.item, mark.function) == (at, index)) else {
            if ours.is_some() {
                undeclared(machine, from, function, findings);
                machine.plain.push((name.clone(), from));
            }
            continue;
        };
        let Some(from) = from else {
            let help = format!("move it to an `impl {}<Phase>` block", machine.ident);
            findings.push(name, format!("edge `{name}` leaves no known phase; {help}"));
            continue;
        };
        let Some(args) = &mark.args else { continue };
        match edge(machine, from, (at, index), args, function) {
            Ok(edge) => machine.edges.push(edge),
            Err(error) => findings.add(error),
        }
    }
}

/// A public function that takes `self` and returns another phase is an edge that the diagram would not know.
fn undeclared(machine: &Machine, from: Option<PhaseIndex>, function: &ImplItemFn, findings: &mut Findings) {
    let sig = &function.sig;
    let consumes = sig.receiver().is_some_and(|receiver| receiver.reference.is_none());
    let ReturnType::Type(_, output) = &sig.output else { return };
    let ok = result_of(output).map_or(&**output, |(ok, _)| ok);
    let Some(to) = argument_of(ok, &machine.ident) else { return };
    let stays = from.is_some_and(|from| last_ident(to) == Some(&machine.phase(from).ident));
    if consumes && !stays && !matches!(function.vis, Visibility::Inherited) {
        let (name, found) = (&sig.ident, text(ok));
        findings.push(
            name,
            format!("`{name}` takes `self` and returns `{found}`, so it is an edge; mark it `#[edge(to = ..)]` or make it private"),
        );
    }
}

fn edge(
    machine: &Machine,
    from: PhaseIndex,
    place: (usize, usize),
    args: &EdgeArgs,
    function: &ImplItemFn,
) -> syn::Result<Edge> {
    let sig = &function.sig;
    let mut findings = Findings::default();
    let to = lookup(machine, &args.to)?;
    receiver(sig, &mut findings);
    unconditional(&function.attrs, &mut findings);
    if sig.constness.is_some() || sig.unsafety.is_some() || sig.abi.is_some() {
        findings.push(&sig.ident, "an edge is a plain or `async` function: no `const`, `unsafe` or `extern`");
    }
    let phase = &machine.phase(from).ident;
    let substitute = |tokens: &dyn ToTokens| write_out_self(tokens.to_token_stream(), &machine.ident, phase);
    let output = match &sig.output {
        ReturnType::Default => TokenStream::new(),
        ReturnType::Type(_, ty) => substitute(ty),
    };
    returns(machine, args, sig, &output, &mut findings);
    let types = sig.inputs.iter().filter_map(|input| match input {
        FnArg::Typed(input) => Some(substitute(&input.ty)),
        FnArg::Receiver(_) => None,
    });

    findings.into_result()?;
    Ok(Edge {
        name: sig.ident.clone(),
        from,
        to,
        fails: args.fails.clone(),
        place,
        signature: Signature {
            vis: function.vis.clone(),
            is_async: sig.asyncness.is_some(),
            generics: sig.generics.clone(),
            args: types.collect(),
            output,
        },
    })
}

fn receiver(sig: &syn::Signature, findings: &mut Findings) {
    let name = &sig.ident;
    let help = "take `self` by value, so that the old phase cannot be used again";
    match sig.receiver() {
        None => findings.push(name, format!("edge `{name}` has no receiver; {help}")),
        Some(receiver) if receiver.reference.is_some() || text(&receiver.ty) != "Self" => {
            let found = text(receiver);
            findings.push(
                receiver,
                format!("edge `{name}` takes `{found}`, which leaves the old phase behind; {help}"),
            );
        }
        Some(_) => {}
    }
}

fn returns(
    machine: &Machine,
    args: &EdgeArgs,
    sig: &syn::Signature,
    output: &TokenStream,
    findings: &mut Findings,
) {
    let goal: Type = {
        let (machine, to) = (&machine.ident, &args.to);
        parse_quote!(#machine<#to>)
    };
    let is_goal = |ty: &Type| {
        argument_of(ty, &machine.ident).and_then(last_ident).is_some_and(|phase| *phase == args.to)
    };
    let found: Option<Type> = syn::parse2(output.clone()).ok();
    let result = found.as_ref().and_then(result_of);
    let matches = match (&args.fails, &found, result) {
        (None, Some(found), None) => is_goal(found),
        (Some(fails), _, Some((ok, error))) => is_goal(ok) && text(error) == text(fails),
        _ => false,
    };
    if matches {
        return;
    }
    let name = &sig.ident;
    let expect = match &args.fails {
        None => text(&goal),
        Some(fails) => format!("Result<{}, {}>", text(&goal), text(fails)),
    };
    let found = found.as_ref().map_or("nothing".to_owned(), |found| format!("`{}`", text(found)));
    let hint = match (&args.fails, result) {
        (None, Some((ok, error))) if is_goal(ok) => format!(", or declare `fails = {}`", text(error)),
        (Some(_), None) => ", or remove `fails`".to_owned(),
        _ => ", or correct `to` and `fails`".to_owned(),
    };
    let message = format!(
        "edge `{name}` is declared to return `{expect}` but returns {found}; write `-> {expect}`{hint}"
    );
    match &sig.output {
        ReturnType::Default => findings.push(name, message),
        ReturnType::Type(_, ty) => findings.push(ty, message),
    }
}
