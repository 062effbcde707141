//! Pages of tasks. A request walks an index that is in order already, from its cursor on, and looks at no more than a
//! bounded part of it, whatever it asks for: who wants more asks again with the cursor that it gets.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::str::FromStr;

use proto::TaskId;
use proto::api::{ApiError, ApiErrorKind, ListFilter, TaskPage};
use proto::task::TaskState;

use super::Database;
use crate::record::{Page, Task};

/// Tasks of one page, at most.
pub(crate) const PAGE_MAX: usize = 1_000;

/// Tasks that one request looks at, at most: some milliseconds of a leader's time.
pub(crate) const VISITS_MAX: usize = 5_000;

/// A page, and what it cost.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) page: TaskPage,
    /// Entries of an index that were looked at.
    #[cfg_attr(not(test), expect(dead_code, reason = "tests assert what bounds a request"))]
    pub(crate) visited: usize,
}

/// A place in an index: what stands behind it in a page's order has yet to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cursor {
    /// In the order of submission.
    Order(u64),
    /// By end.
    End(u64, TaskId),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Order(order) => write!(f, "s{order}"),
            Self::End(ms, id) => write!(f, "e{ms}-{id}"),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(order) = text.strip_prefix('s') {
            return order.parse().map(Self::Order).map_err(drop);
        }
        let (ms, id) = text.strip_prefix('e').and_then(|text| text.split_once('-')).ok_or(())?;
        Ok(Self::End(ms.parse().map_err(drop)?, id.parse().map_err(drop)?))
    }
}

impl Database {
    /// A page of tasks, newest first, or latest end first where the filter asks for ends.
    pub(crate) fn list(&self, filter: &ListFilter) -> Result<Listed, ApiError> {
        let by_end = filter.ended_since_ms.is_some() || filter.ended_until_ms.is_some();
        let after = filter.after.as_deref().map(|text| cursor(text, by_end)).transpose()?;
        let states: BTreeSet<TaskState> = filter.state.iter().chain(&filter.states).copied().collect();
        let limit = filter.limit.map_or(PAGE_MAX, |limit| (limit as usize).clamp(1, PAGE_MAX));
        // All that were accepted before one that is that much older than asked for are too old, too.
        let too_old = filter.since_ms.map(|since| since.saturating_sub(self.disorder_ms));

        let mut page = TaskPage { tasks: Vec::new(), total: self.total(filter, &states), next: None };
        let mut room = Page::default();
        let (mut visited, mut last) = (0, after);
        for (place, id) in self.walk(filter, &states, after, by_end) {
            let full = page.tasks.len() == limit || visited == VISITS_MAX;
            if full {
                page.next = last.map(|last| last.to_string());
                break;
            }
            visited += 1;
            let Some(task) = self.tasks.get(&id) else { continue };
            if !by_end && too_old.is_some_and(|limit| task.submitted_ms < limit) {
                break;
            }
            if matches(task, filter, &states) {
                if !room.fits(task) && !page.tasks.is_empty() {
                    page.next = last.map(|last| last.to_string());
                    break;
                }
                page.tasks.push(task.view(false));
            }
            last = Some(place);
        }
        Ok(Listed { page, visited })
    }

    /// How many match, if that is known without looking at each.
    fn total(&self, filter: &ListFilter, states: &BTreeSet<TaskState>) -> Option<u64> {
        let bare = ListFilter {
            state: filter.state,
            states: filter.states.clone(),
            after: filter.after.clone(),
            limit: filter.limit,
            ..ListFilter::default()
        };
        if bare != *filter {
            return None;
        }
        let count = |state| self.by_state.get(state).map_or(0, std::collections::BTreeMap::len);
        Some(if states.is_empty() { self.all.len() } else { states.iter().map(count).sum() } as u64)
    }

    /// The tasks behind `after`, in the order of the page.
    fn walk<'a>(
        &'a self,
        filter: &ListFilter,
        states: &BTreeSet<TaskState>,
        after: Option<Cursor>,
        by_end: bool,
    ) -> Box<dyn Iterator<Item = (Cursor, TaskId)> + 'a> {
        if by_end {
            let from = filter.ended_since_ms.unwrap_or(0);
            let until = filter.ended_until_ms.unwrap_or(u64::MAX);
            let least = TaskId::from_u128(0);
            let mut end = (until, least);
            if let Some(Cursor::End(ms, id)) = after {
                end = end.min((ms, id));
            }
            if end <= (from, least) {
                return Box::new(std::iter::empty());
            }
            let range = self.finished.range((Included((from, least)), Excluded(end)));
            return Box::new(range.rev().map(|((ms, id), _)| (Cursor::End(*ms, *id), *id)));
        }
        let until = match after {
            Some(Cursor::Order(order)) => Excluded(order),
            _ => Unbounded,
        };
        let range = (Unbounded, until);
        if states.is_empty() {
            return Box::new(self.all.range(range).rev().map(|(order, id)| (Cursor::Order(*order), *id)));
        }
        let indices = states.iter().filter_map(|state| self.by_state.get(state));
        let mut heads: Vec<_> = indices.map(|ids| ids.range(range).rev().peekable()).collect();
        Box::new(std::iter::from_fn(move || {
            let orders = heads.iter_mut().enumerate().filter_map(|(at, ids)| Some((*ids.peek()?.0, at)));
            let (_, newest) = orders.max()?;
            heads.get_mut(newest)?.next().map(|(order, id)| (Cursor::Order(*order), *id))
        }))
    }
}

fn cursor(text: &str, by_end: bool) -> Result<Cursor, ApiError> {
    let fits = |cursor: &Cursor| matches!(cursor, Cursor::End(..)) == by_end;
    text.parse().ok().filter(fits).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        ApiError::new(
            ApiErrorKind::Invalid,
            format!("{shown:?} is no cursor of such a list: take the one that the page before gave, with the same filters"),
        )
    })
}

fn matches(task: &Task, filter: &ListFilter, states: &BTreeSet<TaskState>) -> bool {
    let spec = &task.spec;
    let name = spec.name.as_deref().unwrap_or_default();
    let is = |wanted: &Option<String>, holds: &dyn Fn(&str) -> bool| wanted.as_deref().is_none_or(holds);
    (states.is_empty() || states.contains(&task.state))
        && is(&filter.kind, &|kind| spec.kind == kind)
        && is(&filter.name, &|part| name.contains(part))
        && is(&filter.name_prefix, &|prefix| name.starts_with(prefix))
        && filter.node.as_ref().is_none_or(|node| task.attempts.iter().any(|attempt| attempt.node == *node))
        && filter.labels.iter().all(|(key, value)| spec.labels.get(key) == Some(value))
        && filter
            .schedule
            .as_ref()
            .is_none_or(|name| spec.origin.as_ref().is_some_and(|origin| origin.schedule == *name))
        && filter.since_ms.is_none_or(|since| task.submitted_ms >= since)
        && filter.until_ms.is_none_or(|until| task.submitted_ms < until)
}

#[cfg(test)]
mod tests {
    use proto::task::TaskSpec;

    use super::super::tests::task;
    use super::*;

    const FINISHED: u64 = 100_000;

    /// One accepted each millisecond, one in ten failed, one in a hundred named; the clock goes back once.
    fn many() -> Database {
        let mut db = Database::default();
        for n in 0..FINISHED {
            let state = if n % 10 == 0 { TaskState::Failed } else { TaskState::Succeeded };
            let mut task = task(u128::from(n + 1) << 64, state, Some(n + 50));
            task.submitted_ms = if n == 60_000 { n - 30 } else { n };
            if n % 100 == 7 {
                task.spec = TaskSpec { name: Some(format!("copy-{n}")), ..TaskSpec::new("sleep", vec![]) };
            }
            db.insert(task);
        }
        db
    }

    /// Every page of a list, the most that one of them cost, and how many there were.
    fn all(db: &Database, filter: &ListFilter) -> (Vec<u64>, usize, usize) {
        let (mut found, mut visited, mut pages) = (Vec::new(), 0, 0);
        let mut filter = filter.clone();
        loop {
            let listed = db.list(&filter).expect("a good filter");
            pages += 1;
            visited = visited.max(listed.visited);
            found.extend(listed.page.tasks.iter().map(|task| (task.id.as_u128() >> 64) as u64 - 1));
            match listed.page.next {
                Some(next) => filter.after = Some(next),
                None => return (found, visited, pages),
            }
        }
    }

    #[test]
    fn a_page_of_a_hundred_thousand_costs_a_bounded_part_of_them() {
        let db = many();
        let newest =
            |keep: &dyn Fn(u64) -> bool| (0..FINISHED).rev().filter(|n| keep(*n)).collect::<Vec<_>>();
        let filter = ListFilter { limit: Some(50), ..ListFilter::default() };
        let first = db.list(&filter).expect("listed");
        assert_eq!((first.visited, first.page.tasks.len(), first.page.total), (50, 50, Some(FINISHED)));

        let whole = all(&db, &ListFilter::default());
        assert_eq!(whole, (newest(&|_| true), PAGE_MAX, 100));
        // By state: nothing but what matches is looked at.
        let failed = ListFilter { state: Some(TaskState::Failed), limit: Some(500), ..ListFilter::default() };
        assert_eq!(all(&db, &failed), (newest(&|n| n % 10 == 0), 500, 20));
        assert_eq!(db.list(&failed).expect("listed").page.total, Some(FINISHED / 10));
        let both = ListFilter {
            states: vec![TaskState::Succeeded, TaskState::Failed, TaskState::Queued],
            ..ListFilter::default()
        };
        assert_eq!(all(&db, &both), (newest(&|_| true), PAGE_MAX, 100));
        // What few match costs no request more than its share, and all of them together no more than one pass.
        let named = ListFilter { name: Some("py-".to_owned()), ..ListFilter::default() };
        assert_eq!(all(&db, &named), (newest(&|n| n % 100 == 7), VISITS_MAX, 20));
        assert_eq!(db.list(&named).expect("listed").page.total, None, "it would have to look at each");
        let one = ListFilter {
            name_prefix: Some("copy-99907".to_owned()),
            kind: Some("sleep".to_owned()),
            ..ListFilter::default()
        };
        assert_eq!(all(&db, &one).0, [99_907]);
        // What is too old ends it, by as much earlier as the clock ever went back.
        let late = ListFilter { since_ms: Some(FINISHED - 10), ..ListFilter::default() };
        let (found, visited, pages) = all(&db, &late);
        assert_eq!((found, pages), (newest(&|n| n >= FINISHED - 10), 1));
        assert!(visited < 100, "{visited}");
        let around = ListFilter { since_ms: Some(59_990), until_ms: Some(60_010), ..ListFilter::default() };
        assert_eq!(all(&db, &around).0, newest(&|n| (59_990..60_010).contains(&n) && n != 60_000));
        // By end: the index has them in that order.
        let ended = ListFilter {
            ended_since_ms: Some(150),
            ended_until_ms: Some(1_150),
            limit: Some(300),
            ..ListFilter::default()
        };
        assert_eq!(all(&db, &ended), (newest(&|n| (100..1_100).contains(&n)), 300, 4));
    }

    #[test]
    fn a_cursor_outlives_what_happens_between_pages() {
        let mut db = many();
        let filter = ListFilter { limit: Some(10), ..ListFilter::default() };
        let first = db.list(&filter).expect("listed").page;
        for n in 0..20 {
            db.insert(task(u128::from(FINISHED + n + 1) << 64, TaskState::Queued, None));
        }
        // The very task that the cursor names is forgotten.
        let retention = crate::Retention { count: 5, ..crate::Retention::default() };
        db.expire(&retention, 0, usize::MAX);
        let next = db.list(&ListFilter { after: first.next.clone(), ..filter.clone() }).expect("listed").page;
        assert!(next.tasks.is_empty() && next.next.is_none(), "what was new is not shown again: {next:?}");
        for bad in ["", "s", "sx", "e5", "e5-", "17", "s-1"] {
            let asked = ListFilter { after: Some(bad.to_owned()), ..filter.clone() };
            assert!(db.list(&asked).is_err_and(|error| error.kind == ApiErrorKind::Invalid), "{bad:?}");
        }
        let ends = ListFilter { after: first.next, ended_since_ms: Some(1), ..filter };
        assert!(db.list(&ends).is_err(), "another order");
    }
}
