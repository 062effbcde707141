//! One client's connection: the task that reads its requests and writes its replies.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::task::yield_now;

use super::net::Stream;
use super::shell::{Flushed, Shell, Taken};
use crate::core::ConnId;

/// Reads of one connection before the others have their turn.
const READS_PER_TURN: usize = 4;

/// One client's connection.
pub(super) struct Connection {
    conn: ConnId,
    stream: Stream,
    shell: Rc<RefCell<Shell>>,
    /// Received and not yet executed.
    input: BytesMut,
    /// Whether a bound holds back what `input` has.
    held: Taken,
}

impl Connection {
    pub(super) fn new(conn: ConnId, stream: Stream, shell: Rc<RefCell<Shell>>) -> Self {
        Self { conn, stream, shell, input: BytesMut::new(), held: Taken::All }
    }

    /// Serves the client until it or the server closes the connection.
    pub(super) async fn serve(mut self) {
        poll_fn(|context| self.turn(context)).await;
        self.shell.borrow_mut().closed(self.conn);
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let shell = &mut *self.shell.borrow_mut();
        shell.control.hold_while_paused();
        shell.awake(self.conn);
        for _ in 0..READS_PER_TURN {
            match shell.flush(self.conn, self.held, &mut self.stream, context) {
                Flushed::Ended => return Poll::Ready(()),
                Flushed::Waiting => {
                    shell.wake_later(self.conn, context.waker());
                    return Poll::Pending;
                }
                Flushed::Readable => {}
            }
            // What a bound had held back goes before anything new.
            if self.held == Taken::Held {
                self.held = shell.take(self.conn, &mut self.input);
                shell.give_back(self.conn, &mut self.input, false);
                if shell.keeps_the_disk_waiting() {
                    break;
                }
                continue;
            }
            let shared = shell.lend(&mut self.input);
            let read = pin!(self.stream.read_buf(&mut self.input)).poll(context);
            if matches!(read, Poll::Ready(Ok(1..))) {
                self.held = shell.take(self.conn, &mut self.input);
            }
            shell.give_back(self.conn, &mut self.input, shared);
            match read {
                // What was read so far is written while more is read: the committer comes before the next turn.
                Poll::Ready(Ok(1..)) if shell.keeps_the_disk_waiting() => break,
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Pending => {
                    shell.wake_later(self.conn, context.waker());
                    return Poll::Pending;
                }
            }
        }
        // Goes on behind those whose sockets have become ready meanwhile: a plain wake-up comes before anybody looks.
        let _ = pin!(yield_now()).poll(context);
        Poll::Pending
    }
}
