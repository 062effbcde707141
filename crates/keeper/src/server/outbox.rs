//! Bytes that wait for a client to take them.

/// A queue of bytes that is written from its front.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// Above this an empty outbox gives its memory back: most connections are idle most of the time.
const KEPT_BYTES: usize = 16 << 10;

impl Outbox {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        // Only when it is worth it: what waits may be megabytes, and what was sent a few bytes each time.
        if self.sent > self.bytes.len() / 2 && self.bytes.len() + bytes.len() > self.bytes.capacity() {
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn waiting(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the first `taken` waiting bytes.
    pub(super) fn consume(&mut self, taken: usize) {
        self.sent = (self.sent + taken).min(self.bytes.len());
        if self.is_empty() {
            self.sent = 0;
            if self.bytes.capacity() > KEPT_BYTES {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut outbox = Outbox::default();
        let (mut pushed, mut taken) = (0_u32, 0_u32);
        for step in 1..2_000_u32 {
            outbox.push(&pushed.to_be_bytes());
            pushed += 1;
            // Takes a little less than comes, and everything now and then.
            let take = if step % 500 == 0 { outbox.len() / 4 } else { (step % 2) as usize };
            for _ in 0..take {
                assert_eq!(outbox.waiting().first_chunk(), Some(&taken.to_be_bytes()));
                outbox.consume(4);
                taken += 1;
            }
            assert_eq!(outbox.len(), (pushed - taken) as usize * 4);
        }
        outbox.consume(outbox.len());
        assert!(outbox.is_empty() && outbox.waiting().is_empty() && outbox.bytes.capacity() <= KEPT_BYTES);
    }
}
