//! A program's life: its tasks can be held still, as by SIGSTOP, and ended between two steps, as by SIGKILL.
//!
//! Timers run on while a program is held: it wakes late, with all of them due, as a real one does.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use common::tasks::Host;
use futures_util::future::BoxFuture;

use super::history::History;
use super::store::held;

pub struct Life {
    name: String,
    history: Arc<History>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    paused: bool,
    killed: bool,
    tasks: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Life {
    pub fn new(name: &str, history: Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            history,
            state: Mutex::default(),
        })
    }

    pub fn pause(&self) {
        held(&self.state).paused = true;
    }

    pub fn resume(&self) {
        held(&self.state).paused = false;
        self.wake();
    }

    /// Every task is dropped where it is; the caller waits for them.
    pub fn kill(&self) {
        held(&self.state).killed = true;
        self.wake();
    }

    pub fn is_paused(&self) -> bool {
        held(&self.state).paused
    }

    pub fn is_killed(&self) -> bool {
        held(&self.state).killed
    }

    fn wake(&self) {
        let wakers: Vec<Waker> = held(&self.state).wakers.values().cloned().collect();
        for waker in wakers {
            waker.wake();
        }
    }
}

/// The life on which a group of tasks is lived.
pub struct On(pub Arc<Life>);

impl Host for On {
    fn hosted(&self, name: &'static str, task: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let mut state = held(&self.0.state);
        state.tasks += 1;
        Box::pin(Lived {
            life: Arc::clone(&self.0),
            number: state.tasks,
            name,
            task: Some(task),
        })
    }
}

struct Lived {
    life: Arc<Life>,
    number: u64,
    name: &'static str,
    task: Option<BoxFuture<'static, ()>>,
}

impl Future for Lived {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut state = held(&self.life.state);
            state.wakers.insert(self.number, context.waker().clone());
            if state.killed {
                drop(state);
                self.task = None;
                return Poll::Ready(());
            }
            if state.paused {
                return Poll::Pending;
            }
        }
        let Some(task) = self.task.as_mut() else {
            return Poll::Ready(());
        };
        match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                self.task = None;
                Poll::Ready(())
            }
            Err(_) => {
                self.task = None;
                let (life, name) = (Arc::clone(&self.life), self.name);
                life.history
                    .violated(format!("a task of {} panicked: {name}", life.name));
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Lived {
    fn drop(&mut self) {
        // A task that was killed with others in it must not find the lock taken.
        self.task = None;
        held(&self.life.state).wakers.remove(&self.number);
    }
}
