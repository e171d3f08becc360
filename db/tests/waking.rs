//! Who is woken by what.

use std::task::{Context, Poll, Waker};

use crate::support::{look, now, on_both, renewal};

/// Whether a waiter has been woken by now.
fn is_woken(waiter: std::pin::Pin<&mut impl Future<Output = ()>>) -> bool {
    waiter.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}

#[tokio::test]
async fn a_look_that_finds_nothing_wakes_nobody_and_one_that_finds_a_step_does() {
    on_both(async |db| {
        let mut idle = Box::pin(db.woken());
        assert!(!is_woken(idle.as_mut()));
        look(&db, now()).await;
        assert!(!is_woken(idle.as_mut()), "two workers that look would keep each other awake");
        let new = renewal("contoso");
        db.write(async |tx| tx.create_renewal(&new, now()).await).await.unwrap();
        assert!(is_woken(idle.as_mut()));
        let mut busy = Box::pin(db.woken());
        assert!(!is_woken(busy.as_mut()));
        look(&db, now()).await;
        assert!(is_woken(busy.as_mut()));
    })
    .await;
}
