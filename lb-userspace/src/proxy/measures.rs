//! How the requests of each route ended and how long they took.
//!
//! Each worker counts in a table of its own; readers add the tables up. A route has a place in all
//! of them as long as it is served. There are [`MOST`] places: the routes beyond, and requests that
//! took none, share the first. So neither the memory nor what a scrape gets grows with what people
//! configure, and a request finds its numbers by an index.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ahash::AHashMap;

use super::stats::Counter;
use crate::model::{Backend, Route};

/// How many routes have numbers of their own.
const MOST: usize = 1000;

/// The place of what has none of its own.
pub(super) const OTHERS: u32 = 0;

/// Upper bounds of the buckets, in microseconds; above the last is one more bucket.
const BOUNDS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];

/// How a request ended: 1xx to 5xx, and the client gone before there was an answer.
const ENDS: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "gone"];

/// What the requests of a route have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Measured {
    /// The Ingress, `namespace/name`.
    pub ingress: String,
    /// The path, as it is matched.
    pub path: String,
    /// The Service port that requests go to, `namespace/name:port`; empty where they go nowhere.
    pub service: String,
}

/// How the requests of a route went since it is served.
#[derive(Clone, Debug, PartialEq)]
pub struct Measurement {
    /// Whose; `None`: of routes beyond the limit, and of requests that took no route.
    pub of: Option<Measured>,
    /// How often requests ended in which way: class of the status, or `gone` where the client left
    /// before there was one.
    pub ends: Vec<(&'static str, u64)>,
    /// Upper bounds in seconds, the last without end, and how many requests took so long and longer
    /// than the bound before. Until the last byte of the answer; tunnels are not in it.
    pub buckets: Vec<(f64, u64)>,
    /// All of them together, in seconds.
    pub seconds: f64,
}

/// One worker's numbers, by place.
#[derive(Debug)]
pub(super) struct Table(Box<[OnceLock<Box<Series>>]>);

#[derive(Debug, Default)]
struct Series {
    ends: [Counter; ENDS.len()],
    buckets: [Counter; BOUNDS.len() + 1],
    micros: Counter,
}

/// The sums of all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sums {
    ends: [u64; ENDS.len()],
    buckets: [u64; BOUNDS.len() + 1],
    micros: u64,
}

/// Who has which place.
#[derive(Debug)]
pub(super) struct Measures {
    places: Mutex<Places>,
    tables: Vec<Arc<Table>>,
}

#[derive(Debug, Default)]
struct Places {
    taken: AHashMap<Arc<Measured>, Taken>,
    free: Vec<u32>,
    /// The first place that nobody ever had.
    next: u32,
}

#[derive(Debug)]
struct Taken {
    index: u32,
    users: usize,
    /// What the tables had when the place was taken.
    before: Sums,
}

/// The place of a route, for as long as somebody has it.
#[derive(Debug)]
pub(super) struct Place {
    index: u32,
    /// `None` for the place that nobody has to himself: there may be very many of those.
    _held: Option<Box<Held>>,
}

#[derive(Debug)]
struct Held {
    of: Arc<Measured>,
    measures: Arc<Measures>,
}

impl Table {
    fn new() -> Self {
        Self((0..=MOST).map(|_| OnceLock::new()).collect())
    }

    /// A request has ended: with a status, or without because its client left. `took` is `None` for
    /// those that became a tunnel.
    pub(super) fn record(&self, place: u32, status: Option<u16>, took: Option<Duration>) {
        let Some(series) = self.0.get(place as usize) else { return };
        let series = series.get_or_init(Box::default);
        let end = status.map_or(ENDS.len() - 1, |status| usize::from(status / 100).clamp(1, 5) - 1);
        series.ends[end].add(1);
        if let Some(took) = took {
            let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            series.buckets[BOUNDS.partition_point(|bound| *bound < micros)].add(1);
            series.micros.add(micros);
        }
    }
}

impl Measures {
    /// With a table for each worker.
    pub(super) fn new(workers: usize) -> Arc<Self> {
        let tables = (0..workers).map(|_| Arc::new(Table::new())).collect();
        let places = Mutex::new(Places { next: OTHERS + 1, ..Places::default() });
        Arc::new(Self { places, tables })
    }

    /// The table that a worker writes.
    pub(super) fn table(&self, worker: usize) -> Arc<Table> {
        Arc::clone(&self.tables[worker])
    }

    /// A place for the requests of a route that go to `backend`. Routes that can't be told apart share
    /// one.
    pub(super) fn place(self: &Arc<Self>, route: &Route, backend: &Backend) -> Place {
        let service = match backend {
            Backend::Cluster(key) => key.to_string(),
            Backend::Answered | Backend::Unavailable(_) => String::new(),
        };
        let path = route.path.text().to_owned();
        self.take(Measured { ingress: route.ingress.to_string(), path, service })
    }

    fn take(self: &Arc<Self>, of: Measured) -> Place {
        let mut places = self.places();
        let (index, of) = match places.taken.get_key_value(&of) {
            Some((known, taken)) => (taken.index, Arc::clone(known)),
            None => {
                let (index, before) = match places.free.pop() {
                    Some(index) => (index, self.sums(index)),
                    None if places.next as usize <= MOST => {
                        places.next += 1;
                        (places.next - 1, Sums::default())
                    }
                    None => return Place { index: OTHERS, _held: None },
                };
                let of = Arc::new(of);
                places.taken.insert(Arc::clone(&of), Taken { index, users: 0, before });
                (index, of)
            }
        };
        if let Some(taken) = places.taken.get_mut(&*of) {
            taken.users += 1;
        }
        drop(places);
        Place { index, _held: Some(Box::new(Held { of, measures: Arc::clone(self) })) }
    }

    /// All that was counted, by what it is about; what has no place of its own comes last.
    pub(super) fn read(&self) -> Vec<Measurement> {
        let places = self.places();
        let mut all: Vec<_> = places
            .taken
            .iter()
            .map(|(of, taken)| self.sums(taken.index).since(&taken.before).named(Some(Measured::clone(of))))
            .collect();
        drop(places);
        all.sort_by(|a, b| a.of.cmp(&b.of));
        all.push(self.sums(OTHERS).named(None));
        all
    }

    fn sums(&self, index: u32) -> Sums {
        let mut sums = Sums::default();
        for series in self.tables.iter().filter_map(|table| table.0.get(index as usize)?.get()) {
            for (sum, counter) in sums.ends.iter_mut().zip(&series.ends) {
                *sum += counter.get();
            }
            for (sum, counter) in sums.buckets.iter_mut().zip(&series.buckets) {
                *sum += counter.get();
            }
            sums.micros += series.micros.get();
        }
        sums
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub(super) fn index(&self) -> u32 {
        self.index
    }
}

impl Drop for Held {
    /// The last one gives the place back. Requests that still run count for whoever has it next;
    /// they are few.
    fn drop(&mut self) {
        let mut places = self.measures.places();
        let Some(taken) = places.taken.get_mut(&*self.of) else { return };
        taken.users -= 1;
        if taken.users == 0 {
            let index = taken.index;
            places.taken.remove(&*self.of);
            places.free.push(index);
        }
    }
}

impl Sums {
    fn since(mut self, before: &Self) -> Self {
        for (now, before) in self.ends.iter_mut().zip(&before.ends) {
            *now = now.saturating_sub(*before);
        }
        for (now, before) in self.buckets.iter_mut().zip(&before.buckets) {
            *now = now.saturating_sub(*before);
        }
        self.micros = self.micros.saturating_sub(before.micros);
        self
    }

    fn named(self, of: Option<Measured>) -> Measurement {
        let bounds = BOUNDS.into_iter().map(seconds).chain([f64::INFINITY]);
        Measurement {
            of,
            ends: ENDS.into_iter().zip(self.ends).collect(),
            buckets: bounds.zip(self.buckets).collect(),
            seconds: seconds(self.micros),
        }
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Measured {
        Measured { ingress: "d/one".to_owned(), path: path.to_owned(), service: "d/web:80".to_owned() }
    }

    fn find(all: &[Measurement], of: Option<Measured>) -> Option<(u64, u64, f64)> {
        let one = all.iter().find(|one| one.of == of)?;
        let count = |numbers: &mut dyn Iterator<Item = u64>| numbers.sum();
        let ends = count(&mut one.ends.iter().map(|(_, n)| *n));
        Some((ends, count(&mut one.buckets.iter().map(|(_, n)| *n)), one.seconds))
    }

    #[test]
    fn where_requests_are_counted() {
        let measures = Measures::new(2);
        let place = measures.take(of("/"));
        for (worker, status, millis) in [
            (0, Some(200), Some(1)),
            (1, Some(200), Some(2)),
            (1, Some(404), Some(3)),
            (0, Some(999), Some(20_000)),
            (0, None, Some(7)),
            (0, Some(101), None),
        ] {
            let took = millis.map(Duration::from_millis);
            measures.table(worker).record(place.index(), status, took);
        }
        let all = measures.read();
        assert_eq!(find(&all, Some(of("/"))), Some((6, 5, 20.013)));
        assert_eq!(all[0].ends, [("1xx", 1), ("2xx", 2), ("3xx", 0), ("4xx", 1), ("5xx", 1), ("gone", 1)]);
        let filled: Vec<_> = all[0].buckets.iter().filter(|(_, n)| *n > 0).copied().collect();
        assert_eq!(filled, [(0.001, 1), (0.0025, 1), (0.005, 1), (0.01, 1), (f64::INFINITY, 1)]);
        assert_eq!(find(&all, None), Some((0, 0, 0.0)));
    }

    #[test]
    fn places_come_and_go() {
        let measures = Measures::new(1);
        let (one, same) = (measures.take(of("/a")), measures.take(of("/a")));
        assert_eq!(one.index(), same.index());
        let record = |place: &Place| measures.table(0).record(place.index(), Some(200), Some(Duration::ZERO));
        record(&one);
        let index = one.index();
        drop(one);
        record(&same);
        assert_eq!(find(&measures.read(), Some(of("/a"))), Some((2, 2, 0.0)));
        drop(same);
        assert_eq!(measures.read().len(), 1, "who is gone is not told of");
        let next = measures.take(of("/b"));
        record(&next);
        assert_eq!((next.index(), find(&measures.read(), Some(of("/b")))), (index, Some((1, 1, 0.0))));
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let measures = Measures::new(1);
        let mut places: Vec<_> = (0..MOST + 10).map(|n| measures.take(of(&format!("/{n}")))).collect();
        assert_eq!(places.iter().filter(|place| place.index() == OTHERS).count(), 10);
        for place in &places {
            measures.table(0).record(place.index(), Some(200), Some(Duration::ZERO));
        }
        let all = measures.read();
        assert_eq!((all.len(), find(&all, None)), (MOST + 1, Some((10, 10, 0.0))));
        places.truncate(1);
        assert_ne!(measures.take(of("/new")).index(), OTHERS);
    }
}
