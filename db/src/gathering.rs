//! Work of many callers, done together. Who comes while others of the same key are being served waits, and is served with all who came meanwhile: where
//! many write, a commit is shared by as many as its flush takes time to let come, and where one writes it waits for nobody.
//!
//! One of the callers does the work for all of them. There is no task beside them that could live longer than they do, or die before.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::{Error, Result};

/// Serves all together. Where that fails, each is served alone: one that cannot be must not keep the others from it.
pub(crate) async fn all_or_each<T, R>(
    all: &[T],
    together: impl AsyncFn(&[T]) -> Result<Vec<Result<R>>>,
) -> Vec<Result<R>> {
    match together(all).await {
        Ok(results) => return results,
        Err(error) if all.len() == 1 => return vec![Err(error)],
        Err(_) => {}
    }
    let mut results = Vec::with_capacity(all.len());
    for one in all {
        let result = together(std::slice::from_ref(one)).await;
        results.push(result.and_then(|mut results| results.pop().unwrap_or(Err(Error::Unanswered))));
    }
    results
}

/// How many are served together. Each number has statements of its own, which every connection must prepare first, so there are few of them.
const SIZES: [usize; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];

/// Callers with items of type `T`, who are answered with `R` each.
#[derive(Debug)]
pub(crate) struct Gathering<K: Clone + Eq + Hash, T, R> {
    /// Batches of a key that may be under way at the same time.
    leaders: usize,
    /// Items of a batch, at most.
    most: usize,
    queues: Mutex<HashMap<K, Queue<T, R>>>,
}

/// Who waits for a turn, where at least one is under way.
#[derive(Debug)]
struct Queue<T, R> {
    leading: usize,
    waiting: VecDeque<(T, oneshot::Sender<Heard<T, R>>)>,
}

/// What a caller who waits hears.
#[derive(Debug)]
enum Heard<T, R> {
    Answer(R),
    /// It is its turn to lead.
    Lead(T),
}

/// How a caller comes in.
enum Entered<T, R> {
    Leads(T),
    Waits(oneshot::Receiver<Heard<T, R>>),
}

/// A caller who waits. One that goes away when it should lead lets the next one lead.
struct Waiting<'a, K: Clone + Eq + Hash, T, R> {
    gathering: &'a Gathering<K, T, R>,
    key: &'a K,
    heard: oneshot::Receiver<Heard<T, R>>,
}

impl<K: Clone + Eq + Hash, T, R> Waiting<'_, K, T, R> {
    async fn hear(mut self) -> Option<Heard<T, R>> {
        (&mut self.heard).await.ok()
    }
}

impl<K: Clone + Eq + Hash, T, R> Drop for Waiting<'_, K, T, R> {
    fn drop(&mut self) {
        self.heard.close();
        if let Ok(Heard::Lead(_)) = self.heard.try_recv() {
            self.gathering.pass_on(self.key);
        }
    }
}

/// A batch that is under way. Its end, whatever it is, lets the next caller lead.
struct Turn<'a, K: Clone + Eq + Hash, T, R> {
    gathering: &'a Gathering<K, T, R>,
    key: &'a K,
}

impl<K: Clone + Eq + Hash, T, R> Turn<'_, K, T, R> {
    /// Those who wait and are still there, as many as may go along: with the one that leads one of [`SIZES`].
    fn take(&self) -> Vec<(T, oneshot::Sender<Heard<T, R>>)> {
        let mut queues = self.gathering.lock();
        let Some(queue) = queues.get_mut(self.key) else { return Vec::new() };
        queue.waiting.retain(|(_, caller)| !caller.is_closed());
        let most = (queue.waiting.len() + 1).min(self.gathering.most);
        let together = SIZES.into_iter().rfind(|size| *size <= most).unwrap_or(1);
        queue.waiting.drain(..together - 1).collect()
    }
}

impl<K: Clone + Eq + Hash, T, R> Drop for Turn<'_, K, T, R> {
    fn drop(&mut self) {
        self.gathering.pass_on(self.key);
    }
}

impl<K: Clone + Eq + Hash, T, R> Gathering<K, T, R> {
    pub(crate) fn new(leaders: usize, most: usize) -> Self {
        Self { leaders, most, queues: Mutex::default() }
    }

    /// Has `item` served by `together`, alone or with others of its key, and gives its answer. `together` answers each item, in order. `None` when the
    /// caller that did the work has gone away in the middle of it: nobody knows whether it was done.
    pub(crate) async fn serve(&self, key: K, item: T, together: impl AsyncFnOnce(&[T]) -> Vec<R>) -> Option<R> {
        let item = match self.enter(&key, item) {
            Entered::Leads(item) => item,
            Entered::Waits(heard) => match (Waiting { gathering: self, key: &key, heard }).hear().await? {
                Heard::Answer(answer) => return Some(answer),
                Heard::Lead(item) => item,
            },
        };
        let turn = Turn { gathering: self, key: &key };
        let (mut items, mut callers) = (vec![item], Vec::new());
        for (item, caller) in turn.take() {
            items.push(item);
            callers.push(caller);
        }
        // On the heap: it is large, and those who only wait need no room for it.
        let mut answers = Box::pin(together(&items)).await.into_iter();
        let own = answers.next();
        for (caller, answer) in callers.into_iter().zip(answers) {
            // A caller who has gone away does not hear it.
            drop(caller.send(Heard::Answer(answer)));
        }
        own
    }

    fn enter(&self, key: &K, item: T) -> Entered<T, R> {
        let mut queues = self.lock();
        let queue = queues.entry(key.clone()).or_insert_with(|| Queue { leading: 0, waiting: VecDeque::new() });
        if queue.leading < self.leaders {
            queue.leading += 1;
            return Entered::Leads(item);
        }
        let (caller, heard) = oneshot::channel();
        queue.waiting.push_back((item, caller));
        Entered::Waits(heard)
    }

    /// Lets the next caller lead, or nobody if nobody waits.
    fn pass_on(&self, key: &K) {
        loop {
            let mut queues = self.lock();
            let Some(queue) = queues.get_mut(key) else { return };
            let Some((item, caller)) = queue.waiting.pop_front() else {
                queue.leading -= 1;
                if queue.leading == 0 {
                    queues.remove(key);
                }
                return;
            };
            drop(queues);
            if caller.send(Heard::Lead(item)).is_ok() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Queue<T, R>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::{sync::Notify, task::LocalSet};

    use super::*;

    /// Callers of one key, whose batches wait for a sign and are written down.
    #[derive(Default)]
    struct Scene {
        batches: RefCell<Vec<Vec<u32>>>,
        go_on: Notify,
    }

    impl Scene {
        async fn serve(&self, items: &[u32]) -> Vec<u32> {
            self.batches.borrow_mut().push(items.to_vec());
            self.go_on.notified().await;
            items.iter().map(|item| item * 10).collect()
        }
    }

    fn call(
        gathering: &Rc<Gathering<(), u32, u32>>,
        scene: &Rc<Scene>,
        item: u32,
    ) -> tokio::task::JoinHandle<Option<u32>> {
        let (gathering, scene) = (gathering.clone(), scene.clone());
        tokio::task::spawn_local(async move {
            gathering.serve((), item, async |items: &[u32]| scene.serve(items).await).await
        })
    }

    /// Lets everybody go as far as they can.
    async fn all_wait() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    async fn scene(most: usize, play: impl AsyncFnOnce(Rc<Gathering<(), u32, u32>>, Rc<Scene>)) {
        let gathering = Rc::new(Gathering::new(1, most));
        LocalSet::new().run_until(play(gathering.clone(), Rc::default())).await;
        assert!(gathering.lock().is_empty(), "nobody leads when nobody is there");
    }

    #[tokio::test]
    async fn who_comes_while_others_are_served_goes_along_with_the_next() {
        scene(5, async |gathering, scene| {
            let calls: Vec<_> = (1..=8).map(|item| call(&gathering, &scene, item)).collect();
            for _ in 0..4 {
                all_wait().await;
                scene.go_on.notify_one();
            }
            for (call, item) in calls.into_iter().zip(1..) {
                assert_eq!(call.await.unwrap(), Some(item * 10), "each gets its own answer");
            }
            assert_eq!(*scene.batches.borrow(), [vec![1], vec![2, 3, 4, 5], vec![6, 7, 8]]);
        })
        .await;
    }

    #[tokio::test]
    async fn who_goes_away_while_it_serves_leaves_its_batch_without_an_answer_and_the_others_go_on() {
        scene(2, async |gathering, scene| {
            let first = call(&gathering, &scene, 1);
            let calls: Vec<_> = (2..=4).map(|item| call(&gathering, &scene, item)).collect();
            all_wait().await;
            scene.go_on.notify_one();
            all_wait().await;
            assert_eq!(first.await.unwrap(), Some(10));
            calls[0].abort();
            all_wait().await;
            scene.go_on.notify_one();
            let mut heard = Vec::new();
            for call in calls.into_iter().skip(1) {
                heard.push(call.await.unwrap());
            }
            assert_eq!(heard, [None, Some(40)]);
            assert_eq!(*scene.batches.borrow(), [vec![1], vec![2, 3], vec![4]]);
        })
        .await;
    }

    #[tokio::test]
    async fn who_goes_away_while_it_waits_is_not_served_and_blocks_nobody() {
        scene(1, async |gathering, scene| {
            let first = call(&gathering, &scene, 1);
            let (second, third) = (call(&gathering, &scene, 2), call(&gathering, &scene, 3));
            all_wait().await;
            // Aborted after its turn has come, before it knows.
            scene.go_on.notify_one();
            second.abort();
            all_wait().await;
            scene.go_on.notify_one();
            assert_eq!((first.await.unwrap(), third.await.unwrap()), (Some(10), Some(30)));
            assert_eq!(*scene.batches.borrow(), [vec![1], vec![3]]);
        })
        .await;
    }
}
