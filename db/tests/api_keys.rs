//! Keys of programs: kept without their secret, listed, revoked once.

use chrono::TimeDelta;
use db::{Error, Page};
use uuid::Uuid;

use crate::support::{api_key, minutes, now, on_both};

#[tokio::test]
async fn a_key_comes_back_as_it_was_kept_and_its_hash_is_not_told() {
    on_both(async |db| {
        let key = api_key();
        db.write(async |tx| tx.insert_api_key(&key, now()).await).await.unwrap();
        assert_eq!(db.read(async |tx| tx.api_key(key.id).await).await.unwrap(), Some(key.clone()));
        assert_eq!(db.read(async |tx| tx.api_key(Uuid::now_v7()).await).await.unwrap(), None);
        assert!(!format!("{key:?}").contains("hash"), "{key:?}");
        let again = db.write(async |tx| tx.insert_api_key(&key, now()).await).await.unwrap_err();
        assert!(again.is_unique_violation());
    })
    .await;
}

#[tokio::test]
async fn keys_are_listed_from_new_to_old() {
    on_both(async |db| {
        let keys = [api_key(), api_key(), api_key()];
        for key in &keys {
            db.write(async |tx| tx.insert_api_key(key, now()).await).await.unwrap();
        }
        let page = async |before| {
            let rows = db.read(async |tx| tx.api_keys(Page { before, limit: 2 }).await).await.unwrap();
            rows.into_iter().map(|key| key.id).collect::<Vec<_>>()
        };
        assert_eq!(page(None).await, [keys[2].id, keys[1].id]);
        assert_eq!(page(Some(keys[1].id)).await, [keys[0].id]);
    })
    .await;
}

#[tokio::test]
async fn a_key_is_revoked_once_and_stays_in_the_record() {
    on_both(async |db| {
        let key = api_key();
        db.write(async |tx| tx.insert_api_key(&key, now()).await).await.unwrap();
        for (by, at) in [("root", 1), ("eve", 2)] {
            db.write(async |tx| tx.revoke_api_key(key.id, by, minutes(at), minutes(at)).await).await.unwrap();
        }
        let kept = db.read(async |tx| tx.api_key(key.id).await).await.unwrap().unwrap();
        assert_eq!((kept.revoked_by.as_deref(), kept.revoked_at), (Some("root"), Some(minutes(1))));
        let missing = db.write(async |tx| tx.revoke_api_key(Uuid::now_v7(), "root", now(), now()).await).await;
        assert!(matches!(missing, Err(Error::NotFound("API key"))));
        let entries = db.read(async |tx| tx.audit_page(Page { before: None, limit: 9 }).await).await.unwrap();
        let told: Vec<_> = entries.iter().map(|entry| (entry.action.as_str(), entry.actor.as_str())).collect();
        assert_eq!(told, [("api_key.revoked", "root"), ("api_key.created", "root")]);
        assert!(entries.iter().all(|entry| !entry.detail.to_string().contains("hash")));
    })
    .await;
}

#[tokio::test]
async fn its_last_use_is_noted_once_in_a_while() {
    on_both(async |db| {
        let key = api_key();
        db.write(async |tx| tx.insert_api_key(&key, now()).await).await.unwrap();
        assert!(key.use_is_news(now()));
        db.write(async |tx| tx.note_use_of_api_key(key.id, now()).await).await.unwrap();
        let used = db.read(async |tx| tx.api_key(key.id).await).await.unwrap().unwrap();
        assert_eq!(used.last_used_at, Some(now()));
        assert!(!used.use_is_news(now() + TimeDelta::seconds(59)) && used.use_is_news(minutes(1)));
    })
    .await;
}
