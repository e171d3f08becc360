//! What is over costs nothing: however many renewals and records are kept, no statement that a live one needs reads them all.
//!
//! The statements are those that sqlx says it runs while the real functions do their work, each explained by its database afterwards: none can be
//! forgotten here, and none can change without being looked at. A process of its own, because what sqlx says is heard by everybody in it.

#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests; this is for their helpers")]

mod history {
    pub(crate) mod heard;
    pub(crate) mod plans;
}
#[expect(dead_code, reason = "the other tests use all of it")]
mod support;

use chrono::TimeDelta;
use db::{Arrival, Db, DeliveryAnswer, DeliveryFilter, MessageEnd, Page, Purpose, StepEnd, Taken, Taker, Unexpanded};
use domain::{
    Decision, DeliveryId, DeliveryVerdict, Outcome, Phase, Policy, Renewal, RenewalId, TicketStanding, TicketWord,
    Trouble, gate::Verb, intake::Source, outbox::OutboxStatus, progress, renewal::AtRisk, review::ReviewVerdict,
};
use uuid::Uuid;

use crate::{
    history::{heard::heard, plans::Explainer},
    support::{WORKER, api_key, claim, contoso, decision, distributing, minutes, now, plan, raised, renewal, snapshot},
};

/// How many renewals are over, of each that is a model of it.
const COPIES: i32 = 1_500;

#[tokio::test]
async fn no_statement_reads_all_that_is_over_or_sorts_it() {
    for database in support::each_database().await {
        let mut explainer = Explainer::open(&database).await;
        for model in models(&database.db).await {
            explainer.copy(model, COPIES).await;
        }
        many_keys(&database.db).await;
        let decided = heard(Box::pin(deciding(&database.db))).await;
        let live = distributing(&database.db, "fabrikam", 20).await;
        explainer.analyze().await;
        for text in decided {
            explainer.check(&text).await;
        }
        let lists = heard(Box::pin(lists(&database.db, &live))).await;
        assert!(lists.len() >= 7, "{lists:#?}");
        for text in lists {
            explainer.check_list(&text).await;
        }
        for text in heard(Box::pin(work(&database.db, &live))).await {
            explainer.check(&text).await;
        }
        for text in heard(Box::pin(telling(&database.db))).await {
            explainer.check(&text).await;
        }
        for text in heard(Box::pin(polling(&database.db))).await {
            explainer.check(&text).await;
        }
        explainer.close().await;
        database.drop().await;
    }
}

/// Renewals that ended in different ways, each with all that belongs to one.
async fn models(db: &Db) -> Vec<RenewalId> {
    let cancelled = delivered(db, "0f4ac6c4b750230096c3e4f6ee11a9fe", "1").await;
    let cancelled = cancelled.renewal().unwrap();
    db.write(async |tx| tx.cancel(cancelled, None, "oscar", "no longer needed", now()).await).await.unwrap();
    let refused = raised(db).await;
    let preflight = claim(db, now()).await.unwrap();
    let why = Trouble::new("no_servers", "There are none", "Look for them");
    db.write(async |tx| tx.refuse_preflight(&preflight, WORKER, &why, now()).await).await.unwrap();
    let rejected = raised(db).await;
    let preflight = claim(db, now()).await.unwrap();
    let plan = plan(&rejected.request);
    let no = decision(rejected.id, &plan, Verb::Reject);
    let reject = async |tx: &mut db::Tx| {
        tx.insert_snapshot(Some(rejected.id), Purpose::Before, &snapshot()).await?;
        tx.finish_preflight(&preflight, WORKER, &plan, now()).await?;
        tx.decide(&no, None, now()).await
    };
    db.write(reject).await.unwrap();
    let broken = raised(db).await;
    broken_glass(db, &broken).await;
    db.write(async |tx| tx.cancel(broken.id, None, "oscar", "no longer needed", now()).await).await.unwrap();
    tell_all(db).await;
    vec![cancelled, refused.id, rejected.id, broken.id]
}

/// Plans a renewal, and lets somebody pass its first gate alone.
async fn broken_glass(db: &Db, renewal: &Renewal) {
    let preflight = claim(db, now()).await.unwrap();
    let plan = plan(&renewal.request);
    let alone = Decision {
        decided_by: "eve".to_owned(),
        reason: "Nobody else can be reached tonight".to_owned(),
        break_glass: true,
        ..decision(renewal.id, &plan, Verb::Approve)
    };
    let breaking = async |tx: &mut db::Tx| {
        tx.finish_preflight(&preflight, WORKER, &plan, now()).await?;
        tx.decide(&alone, None, now()).await
    };
    db.write(breaking).await.unwrap();
}

/// Everything that is decided of a renewal before it begins, and what is thought of that.
async fn deciding(db: &Db) {
    let at_risk = AtRisk { expires_at: minutes(9), latest_safe_start: None, starts_at: minutes(1) };
    let risky = Renewal { at_risk: Some(at_risk), ..renewal("woodgrove") };
    db.write(async |tx| tx.create_renewal(&risky, now()).await).await.unwrap();
    db.feasible(&risky.request, &Policy::default(), now()).await.unwrap().unwrap();
    let preflight = claim(db, now()).await.unwrap();
    let plan = plan(&risky.request);
    let planning = async |tx: &mut db::Tx| {
        tx.finish_preflight(&preflight, WORKER, &plan, now()).await?;
        let standing = |word| TicketStanding { word, detail: format!("{word}"), read_at: now() };
        tx.replan(risky.id, None, "oscar", "look again", now()).await?;
        tx.ticket_said(risky.id, standing(TicketWord::NotReady), "ticket:test", now()).await
    };
    db.write(planning).await.unwrap();
    broken_glass(db, &risky).await;
    let reviewing = async |tx: &mut db::Tx| {
        let review = tx.reviews(risky.id).await?.remove(0);
        let of = (risky.id, review.id);
        tx.review(of, ReviewVerdict::Justified, "Nobody was on duty", "vera", now()).await?;
        let voided = TicketStanding { word: TicketWord::ApprovalVoided, detail: "void".to_owned(), read_at: now() };
        tx.ticket_said(risky.id, voided, "ticket:test", now()).await?;
        tx.cancel(risky.id, None, "oscar", "enough", now()).await?;
        // Somebody was faster, who is named.
        let late = tx.cancel(risky.id, None, "olga", "enough", now()).await;
        assert!(matches!(late, Err(db::Error::Overtaken { .. })), "{late:?}");
        db::Result::Ok(())
    };
    db.write(reviewing).await.unwrap();
}

/// Keys of programs that come and go.
async fn many_keys(db: &Db) {
    let making = db.write(async |tx| {
        for _ in 0..COPIES {
            tx.insert_api_key(&api_key(), now()).await?;
        }
        db::Result::Ok(())
    });
    making.await.unwrap();
}

/// Tells a chat everything, and keeps what of it cannot be delivered.
async fn tell_all(db: &Db) {
    let all = |_: &Unexpanded| vec!["chat".to_owned()];
    while db.expand_announcements(all, now()).await.unwrap() {}
    while let Some(claimed) = db.claim_messages("chat", 1, minutes(5), now()).await.unwrap().pop() {
        let end =
            if claimed.attempt % 2 == 0 { MessageEnd::Delivered } else { MessageEnd::Dead { why: "400".to_owned() } };
        db.write(async |tx| tx.finish_message(&claimed, &end, now()).await).await.unwrap();
    }
}

/// Everything that is told to the outside, and every question about it.
async fn telling(db: &Db) {
    let some = |announcement: &Unexpanded| {
        let wanted = announcement.event != "renewal.requested";
        wanted.then(|| "mail".to_owned()).into_iter().collect()
    };
    while db.expand_announcements(some, now()).await.unwrap() {}
    let end = |attempt| match attempt {
        1 => MessageEnd::Retry { at: minutes(1), why: "503".to_owned() },
        2 => MessageEnd::Dead { why: "400".to_owned() },
        _ => MessageEnd::Closed { why: "410".to_owned() },
    };
    for minute in 0..3 {
        let claimed = db.claim_messages("mail", 1, minutes(minute + 5), minutes(minute)).await.unwrap().pop().unwrap();
        let end = end(claimed.attempt);
        let told = db.write(async |tx| {
            tx.due_targets(minutes(minute)).await?;
            tx.next_message_due(minutes(minute)).await?;
            tx.extend_lane(&claimed, minutes(minute + 6)).await?;
            tx.finish_message(&claimed, &end, minutes(minute)).await?;
            tx.outbox_lane(&claimed.lane).await?;
            tx.outbox_news(claimed.id).await?;
            tx.replay_message(claimed.id, "olga", "again", minutes(minute)).await?;
            tx.drop_message(claimed.id, "olga", "enough", minutes(minute)).await?;
            if minute < 2 {
                tx.replay_message(claimed.id, "olga", "again", minutes(minute + 1)).await?;
            }
            db::Result::Ok(())
        });
        told.await.unwrap();
    }
}

/// Everything that can be listed, with every set of filters.
async fn lists(db: &Db, live: &Renewal) {
    let listing = db.read(async |tx| {
        for before in [None, Some(Uuid::now_v7())] {
            let page = Page { before, limit: 50 };
            for organization in [None, Some(contoso())] {
                for status in [None, Some("cancelled")] {
                    tx.renewals(organization.as_ref(), status, page).await?;
                }
            }
            for target in [None, Some("chat")] {
                for status in [None, Some(OutboxStatus::Dead)] {
                    tx.outbox(status, target, page).await?;
                }
            }
            tx.audit_page(page).await?;
            tx.deliveries(DeliveryFilter::Ticket("CHG0030022"), page).await?;
            for source in [None, Some("acme")] {
                for verdict in [None, Some(DeliveryVerdict::Refused)] {
                    tx.deliveries(DeliveryFilter::Of { source, verdict }, page).await?;
                }
            }
            tx.api_keys(page).await?;
        }
        tx.audit_of(live.id, 3, 50).await?;
        tx.latest_snapshot(&contoso()).await?;
        db::Result::Ok(())
    });
    listing.await.unwrap();
}

/// Who looks at tickets by themselves.
async fn polling(db: &Db) {
    let live = db.read(async |tx| tx.live_renewals_of_system("acme").await);
    live.await.unwrap();
    let polling = db.write(async |tx| {
        tx.take_ticket_poll("acme", now() + TimeDelta::minutes(1), now()).await?;
        tx.keep_unusable(&arrival(Some(WORKER), "found"), None, &told(DeliveryVerdict::Refused)).await?;
        tx.ticket_polled("acme", now()).await
    });
    polling.await.unwrap();
}

/// A change record that a source has sent.
async fn delivered(db: &Db, sys_id: &str, count: &str) -> Taken {
    let record = serde_json::json!({
        "sys_id": sys_id, "number": "CHG0030022", "sys_mod_count": count, "state": "-1", "approval": "approved"
    });
    let organization = contoso();
    let intake = Source::servicenow().read(&record, &[&organization], now()).unwrap();
    let arrival = arrival(Some("signature"), &format!("{sys_id}:{count}"));
    let answer = |_: &Taken| told(DeliveryVerdict::Accepted);
    let policy = Policy::default();
    let taker = Taker { by: "source:acme", requester: "source:acme", organizations: None, policy: Some(&policy) };
    match db.deliver(&arrival, &intake, taker, answer).await.unwrap() {
        db::Delivered::Now(taken) => *taken,
        db::Delivered::Before { .. } => panic!("it is new"),
    }
}

fn arrival(sender: Option<&str>, natural_key: &str) -> Arrival {
    Arrival {
        id: DeliveryId(Uuid::now_v7()),
        source: "acme".to_owned(),
        delivery_id: Some(format!("msg {natural_key}")),
        received_at: now(),
        sender: sender.map(str::to_owned),
        retry: None,
        size: 2,
        body: b"{}".to_vec(),
        natural_key: Some(natural_key.to_owned()),
        replays: None,
    }
}

fn told(verdict: DeliveryVerdict) -> DeliveryAnswer {
    DeliveryAnswer { verdict, status: 202, problem: None, detail: None, body: "{}".to_owned() }
}

/// Everything that happens to a live renewal, and every question about one.
async fn work(db: &Db, live: &Renewal) {
    let step = claim(db, now()).await.unwrap();
    assert_eq!(step.step.phase, Phase::Distribute);
    let lease_ends = now() + TimeDelta::minutes(5);
    let down = Trouble::new(progress::SERVER_UNREACHABLE, "It is down", "Start it");
    let working = async |tx: &mut db::Tx| {
        tx.intend(&step, WORKER, serde_json::json!({}), now()).await?;
        tx.extend_lease(&step.step, lease_ends).await?;
        tx.finish_step(&step, WORKER, &StepEnd::Attention(down.clone()), now()).await?;
        tx.retry(live.id, None, "oscar", minutes(1)).await?;
        tx.pause(live.id, None, "oscar", "wait", minutes(1)).await?;
        tx.resume(live.id, None, "oscar", minutes(1)).await?;
        for word in [TicketWord::OnHold, TicketWord::Ready] {
            let standing = TicketStanding { word, detail: word.to_string(), read_at: now() };
            tx.ticket_said(live.id, standing, "ticket:test", minutes(1)).await?;
        }
        tx.live_renewal_of_ticket("servicenow", "0f4ac6c4b750230096c3e4f6ee11a9fe").await?;
        tx.reviews(live.id).await?;
        tx.progress(live.id).await?;
        tx.next_due(now()).await?;
        tx.snapshot_of(live.id, Purpose::Before).await?;
        tx.cancel(live.id, None, "oscar", "no longer needed", minutes(2)).await?;
        tx.create_renewal(&renewal("tailspin"), minutes(3)).await?;
        let key = api_key();
        tx.insert_api_key(&key, now()).await?;
        tx.api_key(key.id).await?;
        tx.note_use_of_api_key(key.id, minutes(3)).await?;
        tx.revoke_api_key(key.id, "root", minutes(3), minutes(3)).await?;
        tx.end_all_leases(minutes(4)).await
    };
    db.write(working).await.unwrap();
    let refused = arrival(None, "of a stranger");
    db.write(async |tx| tx.keep_refused(&refused, &told(DeliveryVerdict::Refused)).await).await.unwrap();
    db.read(async |tx| Ok::<_, db::Error>((tx.delivery(refused.id).await?, tx.delivery_content(refused.id).await?)))
        .await
        .unwrap();
    let next = claim(db, minutes(5)).await.unwrap();
    let skipped = StepEnd::Skipped(Outcome::not_done("Not needed"));
    db.write(async |tx| tx.finish_step(&next, WORKER, &skipped, minutes(5)).await).await.unwrap();
    for count in ["2", "3"] {
        delivered(db, "1f4ac6c4b750230096c3e4f6ee11a9fe", count).await;
    }
}
