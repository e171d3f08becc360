//! What preflight refuses: nothing was made, nothing was changed, and the reason says what to do.

use domain::State;
use serde_json::json;

use crate::support::{Setting, World};

async fn refused(world: World) -> domain::Trouble {
    let id = world.ask(|_| {}).await;
    let run = world.until(id, |run| !run.renewal.state.is_live()).await;
    let State::Failed { trouble, .. } = run.renewal.state else { panic!("{:?}", run.renewal.state) };
    assert!(world.lab.report().effects.iter().all(|e| format!("{:?}", e.kind) == "Power"), "nothing was changed");
    assert!(!trouble.action.is_empty());
    world.close().await;
    trouble
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_may_not_set_auth_config() {
    let world = World::new().await;
    world.fault(json!({"kind": "permission", "cmdlet": "Set-AuthConfig", "granted": false}));
    let trouble = refused(world).await;
    assert_eq!(trouble.code, "permission_missing");
    assert!(trouble.message.contains("Set-AuthConfig"), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password() {
    let world = World::with(Setting { password: Some("wrong"), ..Setting::default() }).await;
    let trouble = refused(world).await;
    assert_eq!(trouble.code, "credentials_refused");
    assert!(!trouble.to_string().contains("wrong\""), "{trouble}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_certificate_of_a_strange_authority() {
    let world = World::with(Setting { foreign_ca: true, ..Setting::default() }).await;
    assert_eq!(refused(world).await.code, "certificate_not_trusted");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_of_which_no_server_answers() {
    let world = World::new().await;
    for server in ["EX01", "EX02", "EX03"] {
        world.fault(json!({"kind": "power", "server": server, "power": "down"}));
    }
    assert_eq!(refused(world).await.code, "no_server_reachable");
}
