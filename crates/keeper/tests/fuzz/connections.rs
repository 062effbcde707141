//! Drives a core through an input, and holds what it says against what it may say.

mod peer;
mod world;

use bytes::{BufMut, Bytes, BytesMut};

use self::world::World;
use crate::entropy::Entropy;
use crate::hunt::Traces;
use crate::requests;

/// Connections at a time.
const SLOTS: usize = 4;

/// Goes through the input twice: the same input gives the same output.
pub(crate) fn check(input: &[u8], traces: &mut Traces) {
    let said = run(input, traces);
    assert!(said == run(input, &mut Traces::default()), "the same calls gave another output");
}

fn run(input: &[u8], traces: &mut Traces) -> Vec<u8> {
    let mut world = World::new(traces);
    let mut entropy = Entropy::new(input);
    while !entropy.is_empty() {
        step(&mut world, &mut entropy);
    }
    world.end()
}

/// A byte chooses the connection and what happens on it. A connection that is needed is made first, so that most of an
/// input is about requests.
fn step(world: &mut World<'_>, entropy: &mut Entropy<'_>) {
    let choice = usize::from(entropy.byte());
    let slot = choice % SLOTS;
    match choice / SLOTS % 16 {
        0 => world.open(slot),
        1 => world.lose(slot),
        2 => world.connect(slot, i32::from(entropy.byte()) * 10),
        3 => {
            let session = entropy.below(8);
            world.resume(slot, session, entropy.byte() < 200);
        }
        // A frame of any bytes, be it the first of its connection.
        4 => {
            let length = usize::from(entropy.byte());
            world.raw(slot, Bytes::copy_from_slice(entropy.bytes(length)));
        }
        5 => world.wait(u64::from(entropy.byte()) * 4),
        6 if choice >= 216 => world.restart(),
        6 | 7 => ask(world, slot, entropy, true),
        _ => ask(world, slot, entropy, false),
    }
}

fn ask(world: &mut World<'_>, slot: usize, entropy: &mut Entropy<'_>, spoil: bool) {
    let (op, body) = requests::body(entropy, spoil);
    let mut frame = BytesMut::new();
    frame.put_i32(world.next_xid());
    frame.put_i32(op);
    frame.put_slice(&body);
    world.connected(slot);
    world.raw(slot, frame.freeze());
}
