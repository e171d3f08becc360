//! What is told to the outside: once for each target, in order, by one worker at a time.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use db::{ClaimedMessage, Db, Error, MessageEnd, Page, Unexpanded};
use domain::{
    RenewalId,
    announcing::News,
    gate::Verb,
    outbox::{OutboxMessage, OutboxStatus},
};
use futures_util::future::join_all;

use crate::support::{approved, decision, minutes, now, on_both, planned, raised};

/// Tells these targets everything.
async fn expand(db: &Db, targets: &[&str]) {
    let all = |_: &Unexpanded| targets.iter().map(ToString::to_string).collect();
    while db.expand_announcements(all, now()).await.unwrap() {}
}

async fn claim(db: &Db, target: &str, at: DateTime<Utc>) -> Vec<ClaimedMessage> {
    db.claim_messages(target, 10, at + TimeDelta::minutes(5), at).await.unwrap()
}

async fn claim_one(db: &Db, target: &str, at: DateTime<Utc>) -> ClaimedMessage {
    let mut claimed = claim(db, target, at).await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.pop().unwrap()
}

async fn finish(db: &Db, claimed: &ClaimedMessage, end: MessageEnd, at: DateTime<Utc>) -> db::Result<()> {
    db.write(async |tx| tx.finish_message(claimed, &end, at).await).await
}

async fn outbox(db: &Db) -> Vec<OutboxMessage> {
    let mut all = db.read(async |tx| tx.outbox(None, None, Page { before: None, limit: 1_000 }).await).await.unwrap();
    all.sort_by_key(|message| (message.target.clone(), message.sequence));
    all
}

fn word(claimed: &ClaimedMessage) -> &'static str {
    claimed.announcement.as_ref().unwrap().news.word()
}

fn retry(at: DateTime<Utc>) -> MessageEnd {
    MessageEnd::Retry { at, why: "503".to_owned() }
}

fn dead() -> MessageEnd {
    MessageEnd::Dead { why: "400".to_owned() }
}

#[tokio::test]
async fn what_happens_to_a_renewal_is_told_in_order_with_the_renewal_as_it_was() {
    on_both(async |db| {
        approved(&db).await;
        expand(&db, &["chat"]).await;
        let mut told = Vec::new();
        while let Some(claimed) = claim(&db, "chat", now()).await.pop() {
            let announcement = claimed.announcement.as_ref().unwrap();
            let state = announcement.renewal.as_ref().unwrap().state.status();
            told.push((word(&claimed), state));
            finish(&db, &claimed, MessageEnd::Delivered, now()).await.unwrap();
        }
        let expected = [
            ("renewal.requested", "requested"),
            ("renewal.awaiting_approval", "awaiting_approval"),
            ("decision.approved", "awaiting_approval"),
            ("renewal.phase_began", "running"),
        ];
        assert_eq!(told, expected);
    })
    .await;
}

#[tokio::test]
async fn what_is_undone_is_not_told() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        let yes = decision(renewal.id, &plan, Verb::Approve);
        let undone = db.write(async |tx| {
            tx.decide(&yes, None, now()).await?;
            Err::<(), _>(Error::NotFound("reason to go on"))
        });
        assert!(undone.await.is_err());
        expand(&db, &["chat"]).await;
        let events: Vec<String> = outbox(&db).await.into_iter().map(|message| message.event).collect();
        assert_eq!(events, ["renewal.requested", "renewal.awaiting_approval"]);
    })
    .await;
}

#[tokio::test]
async fn each_target_is_told_once_however_many_look() {
    on_both(async |db| {
        approved(&db).await;
        let all = |_: &Unexpanded| vec!["chat".to_owned(), "mail".to_owned(), "chat".to_owned()];
        join_all((0..8).map(|_| async { while db.expand_announcements(all, now()).await.unwrap() {} })).await;
        let mut count = BTreeMap::<(String, i64), usize>::new();
        for message in outbox(&db).await {
            *count.entry((message.target, message.sequence)).or_default() += 1;
        }
        assert_eq!(count.len(), 8);
        assert!(count.values().all(|count| *count == 1), "{count:?}");
    })
    .await;
}

#[tokio::test]
async fn what_nobody_is_told_is_not_kept() {
    on_both(async |db| {
        approved(&db).await;
        expand(&db, &[]).await;
        assert_eq!(outbox(&db).await, []);
        expand(&db, &["chat"]).await;
        assert_eq!(outbox(&db).await, []);
    })
    .await;
}

#[tokio::test]
async fn the_first_message_of_a_lane_holds_the_others_until_it_has_arrived() {
    on_both(async |db| {
        approved(&db).await;
        expand(&db, &["chat", "mail"]).await;
        let first = claim_one(&db, "chat", now()).await;
        assert_eq!(word(&first), "renewal.requested");
        assert!(claim(&db, "chat", now()).await.is_empty(), "one of a lane at a time");
        finish(&db, &first, retry(minutes(10)), now()).await.unwrap();
        assert!(claim(&db, "chat", minutes(9)).await.is_empty());
        let other = claim_one(&db, "mail", minutes(9)).await;
        assert_eq!(word(&other), "renewal.requested", "other lanes go on");
        let again = claim_one(&db, "chat", minutes(10)).await;
        assert_eq!((again.id, again.failures), (first.id, 1));
        finish(&db, &again, dead(), minutes(10)).await.unwrap();
        assert_eq!(word(&claim_one(&db, "chat", minutes(10)).await), "renewal.awaiting_approval");
    })
    .await;
}

#[tokio::test]
async fn a_lane_goes_to_one_of_many_workers() {
    on_both(async |db| {
        approved(&db).await;
        expand(&db, &["chat"]).await;
        let claimed = join_all((0..8).map(|_| claim(&db, "chat", now()))).await;
        assert_eq!(claimed.iter().map(Vec::len).sum::<usize>(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_lost_its_lane_writes_nothing() {
    on_both(async |db| {
        approved(&db).await;
        expand(&db, &["chat"]).await;
        let stale = claim_one(&db, "chat", now()).await;
        let fresh = claim_one(&db, "chat", minutes(6)).await;
        assert_eq!(stale.id, fresh.id, "it is sent again under the same id");
        assert!(matches!(finish(&db, &stale, dead(), minutes(6)).await, Err(Error::LeaseLost)));
        let extended = db.write(async |tx| tx.extend_lane(&stale, minutes(60)).await).await;
        assert!(matches!(extended, Err(Error::LeaseLost)));
        db.write(async |tx| tx.extend_lane(&fresh, minutes(60)).await).await.unwrap();
        assert!(claim(&db, "chat", minutes(59)).await.is_empty());
        finish(&db, &fresh, MessageEnd::Delivered, minutes(59)).await.unwrap();
        assert!(matches!(finish(&db, &fresh, dead(), minutes(59)).await, Err(Error::LeaseLost)), "once");
    })
    .await;
}

#[tokio::test]
async fn what_is_announced_while_the_last_message_is_delivered_is_not_forgotten() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        expand(&db, &["chat"]).await;
        for _ in 0..2 {
            let claimed = claim_one(&db, "chat", now()).await;
            if word(&claimed) == "renewal.awaiting_approval" {
                let yes = decision(renewal.id, &plan, Verb::Approve);
                db.write(async |tx| tx.decide(&yes, None, now()).await).await.unwrap();
                let (_, finished) = tokio::join!(
                    Box::pin(expand(&db, &["chat"])),
                    Box::pin(finish(&db, &claimed, MessageEnd::Delivered, now()))
                );
                finished.unwrap();
            } else {
                finish(&db, &claimed, MessageEnd::Delivered, now()).await.unwrap();
            }
        }
        assert_eq!(word(&claim_one(&db, "chat", now()).await), "decision.approved");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_sent_to_a_target_that_is_gone_until_somebody_asks() {
    on_both(async |db| {
        let (renewal, plan) = planned(&db).await;
        expand(&db, &["chat"]).await;
        let gone = claim_one(&db, "chat", now()).await;
        finish(&db, &gone, MessageEnd::Closed { why: "410 Gone".to_owned() }, now()).await.unwrap();
        let yes = decision(renewal.id, &plan, Verb::Approve);
        db.write(async |tx| tx.decide(&yes, None, now()).await).await.unwrap();
        expand(&db, &["chat"]).await;
        let all = outbox(&db).await;
        assert_eq!(all.len(), 4);
        assert!(all.iter().all(|message| message.status == OutboxStatus::Dead), "{all:#?}");
        assert!(all.iter().all(|message| message.last_error.as_deref() == Some("410 Gone")), "{all:#?}");
        assert!(claim(&db, "chat", minutes(10_000)).await.is_empty());
        let replayed = db.write(async |tx| tx.replay_message(all[1].id, "olga", "it is back", minutes(1)).await).await;
        assert_eq!(replayed.unwrap().status, OutboxStatus::Pending);
        assert_eq!(claim_one(&db, "chat", minutes(1)).await.id, all[1].id);
    })
    .await;
}

#[tokio::test]
async fn an_operator_sends_again_or_gives_up_and_the_record_says_so() {
    on_both(async |db| {
        let renewal = planned(&db).await.0.id;
        expand(&db, &["chat"]).await;
        let first = claim_one(&db, "chat", now()).await;
        finish(&db, &first, retry(minutes(600)), now()).await.unwrap();
        let dropped =
            db.write(async |tx| tx.drop_message(first.id, "olga", "not needed", minutes(1)).await).await.unwrap();
        assert_eq!(dropped.status, OutboxStatus::Dropped);
        let second = claim_one(&db, "chat", minutes(1)).await;
        assert_eq!(word(&second), "renewal.awaiting_approval", "nobody waits for what was given up");
        finish(&db, &second, dead(), minutes(1)).await.unwrap();
        // Not before the claim: who is refused lets go of the lane a moment later, and who claims passes over what is held.
        let again = db.write(async |tx| tx.drop_message(first.id, "olga", "twice", minutes(1)).await).await;
        assert!(matches!(again, Err(Error::Refused(_))));
        let dead = list(&db, Some(OutboxStatus::Dead), Some("chat")).await;
        assert_eq!(dead.iter().map(|message| message.id).collect::<Vec<_>>(), [second.id]);
        assert_eq!(list(&db, Some(OutboxStatus::Dead), Some("mail")).await, []);
        db.write(async |tx| tx.replay_message(second.id, "olga", "mended", minutes(2)).await).await.unwrap();
        let replayed = claim_one(&db, "chat", minutes(2)).await;
        assert_eq!((replayed.id, replayed.failures), (second.id, 0));
        finish(&db, &replayed, MessageEnd::Delivered, minutes(2)).await.unwrap();
        assert_eq!(records(&db, renewal).await, ["outbox.dropped", "outbox.replayed"]);
        let news = db.read(async |tx| tx.outbox_news(second.id).await).await.unwrap();
        assert!(matches!(news, News::AwaitingApproval { .. }));
    })
    .await;
}

async fn list(db: &Db, status: Option<OutboxStatus>, target: Option<&str>) -> Vec<OutboxMessage> {
    db.read(async |tx| tx.outbox(status, target, Page { before: None, limit: 50 }).await).await.unwrap()
}

async fn records(db: &Db, renewal: RenewalId) -> Vec<String> {
    let entries = db.read(async |tx| tx.audit_of(renewal, 0, 1_000).await).await.unwrap();
    entries.into_iter().map(|entry| entry.action).filter(|action| action.starts_with("outbox.")).collect()
}

#[tokio::test]
async fn a_message_that_is_replayed_while_it_is_on_its_way_is_sent_once_more() {
    on_both(async |db| {
        raised(&db).await;
        expand(&db, &["chat"]).await;
        let claimed = claim_one(&db, "chat", now()).await;
        db.write(async |tx| tx.replay_message(claimed.id, "olga", "again", now()).await).await.unwrap();
        assert!(claim(&db, "chat", now()).await.is_empty(), "it is on its way");
        finish(&db, &claimed, retry(minutes(1)), now()).await.unwrap();
        assert_eq!(claim_one(&db, "chat", minutes(1)).await.id, claimed.id);
    })
    .await;
}

#[tokio::test]
async fn lanes_that_a_process_left_are_due_when_it_begins_again() {
    on_both(async |db| {
        raised(&db).await;
        expand(&db, &["chat"]).await;
        let left = claim_one(&db, "chat", now()).await;
        db.write(async |tx| tx.end_all_leases(minutes(1)).await).await.unwrap();
        let taken = claim_one(&db, "chat", minutes(1)).await;
        assert_eq!(taken.id, left.id);
        let due = db.read(async |tx| tx.next_message_due(minutes(1)).await).await.unwrap();
        assert_eq!(due, Some(minutes(6)));
    })
    .await;
}

#[tokio::test]
async fn messages_of_one_ticket_are_in_one_lane() {
    on_both(async |db| {
        let mut new = crate::support::renewal("contoso");
        new.request.ticket = Some(domain::Ticket {
            system: "servicenow".to_owned(),
            number: "CHG1".to_owned(),
            sys_id: Some("0f4a".to_owned()),
            url: None,
        });
        db.write(async |tx| tx.create_renewal(&new, now()).await).await.unwrap();
        let only = |announcement: &Unexpanded| {
            announcement.ticket_system.iter().filter(|system| *system == "servicenow").cloned().collect()
        };
        while db.expand_announcements(only, now()).await.unwrap() {}
        assert_eq!(claim_one(&db, "servicenow", now()).await.lane, "servicenow/servicenow:0f4a");
    })
    .await;
}
