//! How much memory bodies may take that wait for somebody.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;

/// Smaller pieces are copied where they are kept: each is a slice of what many connections read
/// into, and would hold all of that.
const SMALL: usize = 8 * 1024;

/// A piece of a body that may be kept.
pub(super) fn compact(data: Bytes) -> Bytes {
    if data.len() < SMALL { Bytes::copy_from_slice(&data) } else { data }
}

/// What one worker may hold of bodies, in bytes. Whoever gets nothing goes on without holding: a
/// body is then passed on as it comes.
#[derive(Debug)]
pub(super) struct Budget {
    left: Cell<usize>,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Rc<Self> {
        Rc::new(Self { left: Cell::new(bytes) })
    }

    /// Nothing yet, to be grown.
    pub(super) fn open(self: &Rc<Self>) -> Reserved {
        Reserved { budget: Rc::clone(self), bytes: 0 }
    }
}

/// A share of the budget, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Reserved {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Reserved {
    /// Makes the share `bytes` large, if it is not already; false if there is not that much.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let Some(left) = self.budget.left.get().checked_sub(more) else { return false };
        self.budget.left.set(left);
        self.bytes += more;
        true
    }

    /// Gives back all but `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.budget.left.set(self.budget.left.get() + less);
        self.bytes -= less;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_come_back() {
        let budget = Budget::new(100);
        let (mut one, mut two) = (budget.open(), budget.open());
        for (step, expect) in [(one.grow_to(60), true), (two.grow_to(50), false), (two.grow_to(40), true)] {
            assert_eq!(step, expect);
        }
        assert!(one.grow_to(10), "it has more than that");
        one.shrink_to(50);
        assert!(two.grow_to(50) && !two.grow_to(51));
        drop(one);
        assert!(two.grow_to(100));
        drop(two);
        assert_eq!(budget.left.get(), 100);
    }
}
