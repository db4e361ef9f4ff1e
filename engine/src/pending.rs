//! An answer that comes once the writer has made it durable.

use crate::error::Error;
use crate::sync::oneshot;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The answer to a command: await it, or [`wait`](Pending::wait) for it where there is no async runtime.
///
/// Dropping it doesn't take the command back.
#[must_use = "the command may have been refused"]
pub struct Pending<T> {
    state: State<T>,
}

enum State<T> {
    Ready(Option<Result<T, Error>>),
    Waiting { receiver: oneshot::Receiver<Result<crate::state::Outcome, Error>>, read: fn(crate::state::Outcome) -> Option<T> },
}

impl<T> Pending<T> {
    pub(crate) fn ready(result: Result<T, Error>) -> Self {
        Self { state: State::Ready(Some(result)) }
    }

    pub(crate) fn waiting(
        receiver: oneshot::Receiver<Result<crate::state::Outcome, Error>>,
        read: fn(crate::state::Outcome) -> Option<T>,
    ) -> Self {
        Self { state: State::Waiting { receiver, read } }
    }

    /// Blocks this thread until the answer is there. Not for threads that drive async tasks: those must await.
    pub fn wait(self) -> Result<T, Error> {
        match self.state {
            State::Ready(result) => result.unwrap_or(Err(Error::Closed)),
            State::Waiting { receiver, read } => {
                receiver.blocking_recv().unwrap_or(Err(Error::Closed)).map(|outcome| take(outcome, read))
            }
        }
    }
}

/// Each command has one kind of outcome; another one is a bug of ours.
fn take<T>(outcome: crate::state::Outcome, read: fn(crate::state::Outcome) -> Option<T>) -> T {
    match read(outcome) {
        Some(value) => value,
        None => unreachable!("a command was answered with another command's outcome"),
    }
}

impl<T: Unpin> Future for Pending<T> {
    type Output = Result<T, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Ready(result) => Poll::Ready(result.take().unwrap_or(Err(Error::Closed))),
            State::Waiting { receiver, read } => {
                let read = *read;
                Pin::new(receiver)
                    .poll(context)
                    .map(|received| received.unwrap_or(Err(Error::Closed)).map(|outcome| take(outcome, read)))
            }
        }
    }
}

/// Drives a future on this thread, which sleeps between its steps.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pending").finish_non_exhaustive()
    }
}
