//! What stands for the types of [`sync`](super) in a model: loom's own, and for what loom has not, its contract in terms of loom's.
//!
//! - [`Map`] promises of papaya only what its reads and writes of one entry promise: an insertion that happened before a look-up is
//!   seen by it; one that did not may be seen or not, whole, and whoever sees it sees what was done before it. Entries by themselves;
//!   an order between two of them is not promised. One thread writes.
//! - [`oneshot`], [`watch`] and [`sync_channel`] are a lock and a condition each. Waiting for them blocks, also where a future is
//!   polled; an executor has nothing to add to that.

#![allow(clippy::unwrap_used, reason = "a model that meets what it doesn't expect should end there and then")]

pub(crate) use loom::sync::atomic;
pub(crate) use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use equivalent::Equivalent;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex, MutexGuard};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::sync::mpsc::{RecvError, TryRecvError, TrySendError};
use std::sync::{Arc, OnceLock};

/// Keys that one map of a model can have, and values that one key can have had.
const KEYS_MAX: usize = 6;
const VALUES_MAX: usize = 6;

pub(crate) struct Map<K, V, S> {
    /// Which key has which slot. Known to everybody at once, which tells nobody anything: the slot says what is there.
    keys: std::sync::Mutex<Vec<K>>,
    /// So that loom knows that a look-up of an unknown key depends on the insertion of a new one.
    added: AtomicUsize,
    slots: Box<[Slot<V>]>,
    hasher: PhantomData<S>,
}

struct Slot<V> {
    /// The number of the value that is there, from 1; 0: none.
    current: AtomicUsize,
    values: [OnceLock<V>; VALUES_MAX],
}

pub(crate) type MapRef<'a, K, V, S> = &'a Map<K, V, S>;

impl<K, V, S> Default for Map<K, V, S> {
    fn default() -> Self {
        let slot = || Slot { current: AtomicUsize::new(0), values: [const { OnceLock::new() }; VALUES_MAX] };
        Self {
            keys: std::sync::Mutex::default(),
            added: AtomicUsize::new(0),
            slots: (0..KEYS_MAX).map(|_| slot()).collect(),
            hasher: PhantomData,
        }
    }
}

impl<K, V, S> Map<K, V, S> {
    pub(crate) fn pin(&self) -> &Self {
        self
    }

    fn slot<Q: Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&Slot<V>> {
        let place = self.keys.lock().unwrap().iter().position(|there| key.equivalent(there));
        if place.is_none() {
            self.added.load(Ordering::Relaxed);
        }
        place.map(|place| &self.slots[place])
    }

    pub(crate) fn get<Q: Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        let slot = self.slot(key)?;
        slot.value(slot.current.load(Ordering::Acquire))
    }

    pub(crate) fn contains_key<Q: Equivalent<K> + ?Sized>(&self, key: &Q) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn insert(&self, key: K, value: V) -> Option<&V>
    where
        K: Eq,
    {
        let slot = self.slot(&key).unwrap_or_else(|| {
            self.added.fetch_add(1, Ordering::Relaxed);
            let mut keys = self.keys.lock().unwrap();
            keys.push(key);
            &self.slots[keys.len() - 1]
        });
        let number = 1 + slot.values.iter().position(|value| value.get().is_none()).expect("a model changes a key a few times");
        assert!(slot.values[number - 1].set(value).is_ok(), "one thread writes");
        slot.value(slot.current.swap(number, Ordering::AcqRel))
    }

    pub(crate) fn remove<Q: Equivalent<K> + ?Sized>(&self, key: &Q) -> Option<&V> {
        let slot = self.slot(key)?;
        slot.value(slot.current.swap(0, Ordering::AcqRel))
    }
}

impl<V> Slot<V> {
    fn value(&self, number: usize) -> Option<&V> {
        self.values.get(number.checked_sub(1)?)?.get()
    }
}

impl<K, V, S> fmt::Debug for Map<K, V, S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Map").finish_non_exhaustive()
    }
}

/// One value behind a lock, and a bell.
#[derive(Debug)]
struct Cell<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Cell<T> {
    fn new(value: T) -> Arc<Self> {
        Arc::new(Self { value: Mutex::new(value), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap()
    }

    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    fn wait_until(&self, is: impl FnMut(&T) -> bool) -> MutexGuard<'_, T> {
        let (mut value, mut is) = (self.lock(), is);
        while !is(&value) {
            value = self.changed.wait(value).unwrap();
        }
        value
    }
}

pub(crate) mod oneshot {
    use super::{Arc, Cell};
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    #[derive(Debug)]
    enum Letter<T> {
        Awaited,
        There(T),
        /// Taken out, or the sender went without one.
        Gone,
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Cell<Letter<T>>>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Cell<Letter<T>>>);

    #[derive(Debug)]
    pub(crate) struct SenderWent;

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let cell = Cell::new(Letter::Awaited);
        (Sender(Arc::clone(&cell)), Receiver(cell))
    }

    impl<T> Sender<T> {
        /// Nobody of ours cares whether the receiver is still there.
        pub(crate) fn send(self, value: T) -> Result<(), T> {
            self.0.change(|letter| *letter = Letter::There(value));
            Ok(())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.change(|letter| {
                if let Letter::Awaited = letter {
                    *letter = Letter::Gone;
                }
            });
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn blocking_recv(self) -> Result<T, SenderWent> {
            let mut letter = self.0.wait_until(|letter| !matches!(letter, Letter::Awaited));
            match std::mem::replace(&mut *letter, Letter::Gone) {
                Letter::There(value) => Ok(value),
                Letter::Awaited | Letter::Gone => Err(SenderWent),
            }
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, SenderWent>;

        fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<Self::Output> {
            Poll::Ready(Receiver(Arc::clone(&self.0)).blocking_recv())
        }
    }
}

#[allow(unreachable_pub, reason = "the engine hands it out, and nobody outside of a model sees it")]
pub(crate) mod watch {
    use super::{Arc, Cell, MutexGuard};

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Cell<T>>);

    #[derive(Debug)]
    pub struct Receiver<T>(Arc<Cell<T>>);

    /// Never: who waits borrows the sender.
    #[derive(Debug)]
    pub(crate) struct SenderWent;

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Cell::new(value))
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            Receiver(Arc::clone(&self.0))
        }

        pub(crate) fn send_modify(&self, change: impl FnOnce(&mut T)) {
            self.0.change(change);
        }

        pub(crate) fn send_replace(&self, value: T) -> T {
            self.0.change(|there| std::mem::replace(there, value))
        }

        pub(crate) fn borrow(&self) -> MutexGuard<'_, T> {
            self.0.lock()
        }
    }

    impl<T> Receiver<T> {
        pub(crate) async fn wait_for(&mut self, is: impl FnMut(&T) -> bool) -> Result<MutexGuard<'_, T>, SenderWent> {
            Ok(self.0.wait_until(is))
        }
    }
}

#[derive(Debug)]
struct Channel<T> {
    waiting: VecDeque<T>,
    waiting_max: usize,
    sender_is_there: bool,
    receiver_is_there: bool,
}

/// One sender, shared by reference.
#[derive(Debug)]
pub(crate) struct SyncSender<T>(Arc<Cell<Channel<T>>>);

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Cell<Channel<T>>>);

pub(crate) fn sync_channel<T>(waiting_max: usize) -> (SyncSender<T>, Receiver<T>) {
    let channel = Channel { waiting: VecDeque::new(), waiting_max, sender_is_there: true, receiver_is_there: true };
    let cell = Cell::new(channel);
    (SyncSender(Arc::clone(&cell)), Receiver(cell))
}

impl<T> SyncSender<T> {
    pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
        self.0.change(|channel| {
            if !channel.receiver_is_there {
                Err(TrySendError::Disconnected(value))
            } else if channel.waiting.len() == channel.waiting_max {
                Err(TrySendError::Full(value))
            } else {
                channel.waiting.push_back(value);
                Ok(())
            }
        })
    }

    pub(crate) fn send(&self, value: T) -> Result<(), T> {
        let mut channel = self.0.wait_until(|channel| !channel.receiver_is_there || channel.waiting.len() < channel.waiting_max);
        if !channel.receiver_is_there {
            return Err(value);
        }
        channel.waiting.push_back(value);
        drop(channel);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Drop for SyncSender<T> {
    fn drop(&mut self) {
        self.0.change(|channel| channel.sender_is_there = false);
    }
}

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvError> {
        let mut channel = self.0.wait_until(|channel| !channel.waiting.is_empty() || !channel.sender_is_there);
        let value = channel.waiting.pop_front();
        drop(channel);
        self.0.changed.notify_all();
        value.ok_or(RecvError)
    }

    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.0.change(|channel| {
            let empty = if channel.sender_is_there { TryRecvError::Empty } else { TryRecvError::Disconnected };
            channel.waiting.pop_front().ok_or(empty)
        })
    }
}

/// What nobody has taken goes, too.
impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let left = self.0.change(|channel| {
            channel.receiver_is_there = false;
            std::mem::take(&mut channel.waiting)
        });
        drop(left);
    }
}
