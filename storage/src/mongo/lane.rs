//! Writes in groups: while commands are under way, what arrives collects and makes the next one.
//!
//! A lane has a bounded queue and a few hands. A hand takes what waits, up to a group's size, and answers each call
//! from its own part of the outcome, so one call's own trouble is never another's. Invariants: a call is answered within
//! [`WAIT_MAX`], whatever the database does; what a caller has given up waiting for is not begun any more; a panic costs
//! the group that met it, and no hand.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use common::tasks::Tasks;
use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::link::CALL_MAX;
use super::trouble::Trouble;

/// Longest wait of a caller, queue included: below the 3 s that callers are promised.
const WAIT_MAX: Duration = Duration::from_millis(2_800);
// What callers are promised is 3 s, and who only waits for its turn is not to outlast the call that it waits for.
const _: () = assert!(WAIT_MAX.as_millis() < 3_000 && CALL_MAX.as_millis() < WAIT_MAX.as_millis());
/// Calls that may wait; a caller past it waits to be let in.
const QUEUE_MAX: usize = 1_024;
/// A group is closed once it has this many items. Larger ones gain nothing and make their first wait longer.
const ITEMS_MAX: usize = 512;
/// A group is closed once it weighs this much. A command may have 16 MiB, of which a part is not payload.
const BYTES_MAX: usize = 6 * 1024 * 1024;

/// What a hand does with a group.
pub(super) trait Work: Send + 'static {
    type Item: Weighed + Send + 'static;
    type Answer: Send + 'static;

    /// One answer for each item, in order; or what befell the group as a whole, which is then the answer of each. The
    /// group is within the limits of one command.
    fn run(&mut self, group: Vec<Self::Item>) -> impl Future<Output = Answers<Self::Answer>> + Send;
}

pub(super) type Answers<A> = Result<Vec<Result<A, Trouble>>, Trouble>;

pub(super) trait Weighed {
    /// About how many bytes it adds to a command.
    fn bytes(&self) -> usize;
}

struct Call<I, A> {
    items: Vec<I>,
    reply: oneshot::Sender<Result<Vec<A>, Trouble>>,
}

type Waiting<I, A> = Arc<Mutex<mpsc::Receiver<Call<I, A>>>>;

/// The way into a lane, which ends when the last of these is dropped.
pub(super) struct Lane<W: Work>(mpsc::Sender<Call<W::Item, W::Answer>>);

impl<W: Work> Lane<W> {
    /// With one hand for each element of `hands`.
    pub(super) fn start(name: &'static str, tasks: &Tasks, hands: impl IntoIterator<Item = W>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let waiting: Waiting<W::Item, W::Answer> = Arc::new(Mutex::new(receiver));
        for hand in hands {
            let (waiting, stopping) = (Arc::clone(&waiting), tasks.stopping().clone());
            tasks.spawn(name, serve(hand, waiting, stopping));
        }
        Self(sender)
    }

    /// Writes `items`; the answers are in their order. An error tells nothing of what became of them.
    pub(super) async fn write(&self, items: Vec<W::Item>) -> Result<Vec<W::Answer>, Trouble> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let (reply, answer) = oneshot::channel();
        let called = async {
            self.0
                .send(Call { items, reply })
                .await
                .map_err(|_| Trouble::Closed)?;
            answer.await.unwrap_or(Err(Trouble::Closed))
        };
        tokio::time::timeout(WAIT_MAX, called)
            .await
            .unwrap_or(Err(Trouble::Silent))
    }
}

/// Until the lane is closed or asked to stop; what is under way then is brought to its end.
async fn serve<W: Work>(mut hand: W, waiting: Waiting<W::Item, W::Answer>, stopping: CancellationToken) {
    loop {
        let collected = tokio::select! {
            biased;
            () = stopping.cancelled() => None,
            calls = collect(&waiting) => calls,
        };
        let Some(calls) = collected else { return };
        let mut replies = Vec::with_capacity(calls.len());
        let mut items = VecDeque::new();
        for call in calls {
            replies.push((call.reply, call.items.len()));
            items.extend(call.items);
        }
        let mut answers = VecDeque::with_capacity(items.len());
        while !items.is_empty() {
            let group = cut(&mut items);
            let size = group.len();
            // A hand that were lost to a panic would be missed for as long as the program lives.
            let run = AssertUnwindSafe(hand.run(group)).catch_unwind().await;
            let answered = run.unwrap_or_else(|_| {
                tracing::error!("a group of writes panicked; their fate is unknown");
                Err(Trouble::Panicked)
            });
            match answered {
                Ok(answered) => {
                    debug_assert_eq!(answered.len(), size, "one answer for each item");
                    answers.extend(answered);
                }
                Err(trouble) => answers.extend((0..size).map(|_| Err(trouble.clone()))),
            }
        }
        for (reply, size) in replies {
            let part: Result<Vec<W::Answer>, Trouble> = answers.drain(..size.min(answers.len())).collect();
            // A caller that has gone away needs no answer.
            let _ = reply.send(part);
        }
    }
}

/// What waits, at most about a group of it; none once the lane is closed.
async fn collect<I: Weighed, A>(waiting: &Mutex<mpsc::Receiver<Call<I, A>>>) -> Option<Vec<Call<I, A>>> {
    // Held while it waits: the next hand waits behind it.
    let mut waiting = waiting.lock().await;
    let (mut calls, mut items, mut bytes) = (Vec::new(), 0, 0);
    let mut next = Some(waiting.recv().await?);
    while let Some(call) = next {
        if !call.reply.is_closed() {
            items += call.items.len();
            bytes += call.items.iter().map(Weighed::bytes).sum::<usize>();
            calls.push(call);
        }
        if items >= ITEMS_MAX || bytes >= BYTES_MAX {
            break;
        }
        next = waiting.try_recv().ok();
    }
    Some(calls)
}

/// The next group: within the limits, and never empty.
fn cut<I: Weighed>(items: &mut VecDeque<I>) -> Vec<I> {
    let (mut group, mut bytes) = (Vec::new(), 0);
    while let Some(next) = items.front() {
        bytes += next.bytes();
        if !group.is_empty() && (bytes > BYTES_MAX || group.len() == ITEMS_MAX) {
            break;
        }
        group.extend(items.pop_front());
    }
    group
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Weighed for usize {
        fn bytes(&self) -> usize {
            *self
        }
    }

    #[test]
    fn groups_are_within_their_limits_and_lose_nothing() {
        let sizes = [1, BYTES_MAX, 5, BYTES_MAX + 9, 7]
            .into_iter()
            .chain([1; ITEMS_MAX + 3]);
        let whole: Vec<usize> = sizes.collect();
        let mut items: VecDeque<usize> = whole.iter().copied().collect();
        let mut found = Vec::new();
        while !items.is_empty() {
            let group = cut(&mut items);
            let bytes: usize = group.iter().sum();
            assert!(group.len() == 1 || bytes <= BYTES_MAX, "{bytes} bytes");
            assert!(!group.is_empty() && group.len() <= ITEMS_MAX);
            found.extend(group);
        }
        assert_eq!(found, whole);
    }

    /// A number that no hand survives.
    const POISON: usize = 1_000;

    struct Echo(Vec<usize>);

    impl Work for Echo {
        type Item = usize;
        type Answer = usize;

        async fn run(&mut self, group: Vec<usize>) -> Answers<usize> {
            self.0.push(group.len());
            assert!(!group.contains(&POISON), "poisoned");
            let odd = |number: usize| {
                if number % 2 == 1 {
                    Err(Trouble::Silent)
                } else {
                    Ok(number * 2)
                }
            };
            Ok(group.into_iter().map(odd).collect())
        }
    }

    #[tokio::test]
    async fn one_calls_trouble_is_not_anothers() {
        let tasks = Tasks::new();
        let lane = Lane::start("test", &tasks, [Echo(Vec::new()), Echo(Vec::new())]);
        let calls = (0..50).map(|number| lane.write(vec![number, number + 2]));
        for (number, answer) in futures_util::future::join_all(calls)
            .await
            .into_iter()
            .enumerate()
        {
            match answer {
                Ok(answers) => assert_eq!(answers, [number * 2, number * 2 + 4]),
                Err(_) => assert_eq!(number % 2, 1),
            }
        }
        tasks.stop();
        assert!(tasks.join(Duration::from_secs(30)).await);
        assert!(matches!(lane.write(vec![2]).await, Err(Trouble::Closed)));
    }

    #[tokio::test]
    async fn a_panic_costs_its_group_and_not_the_lane() {
        let tasks = Tasks::new();
        let lane = Lane::start("test", &tasks, [Echo(Vec::new())]);
        for _ in 0..3 {
            assert!(matches!(lane.write(vec![POISON]).await, Err(Trouble::Panicked)));
            assert!(matches!(lane.write(vec![2]).await.as_deref(), Ok([4])));
        }
        tasks.stop();
    }
}
