//! What one node does for one service: a core without IO. Events in, effects out; time comes with each event.

pub(crate) mod timing;
