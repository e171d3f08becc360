//! Whose turn it is to ask a ticket system.

use domain::Ticket;

use crate::support::{minutes, now, on_both, renewal};

#[tokio::test]
async fn one_of_all_workers_asks_a_system_and_goes_on_where_it_was_seen_until() {
    on_both(async |db| {
        let turn = async |at| {
            db.write(async |tx| tx.take_ticket_poll("acme", minutes(at + 5), minutes(at)).await).await.unwrap()
        };
        assert_eq!(turn(0).await.unwrap().seen_until, None);
        assert_eq!(turn(1).await, None, "somebody else has just asked");
        db.write(async |tx| tx.ticket_polled("acme", minutes(3)).await).await.unwrap();
        assert_eq!(turn(5).await.unwrap().seen_until, Some(minutes(3)));
        assert_eq!(turn(9).await, None);
        let other = db.write(async |tx| tx.take_ticket_poll("other", minutes(5), minutes(1)).await).await.unwrap();
        assert_eq!(other.unwrap().seen_until, None, "each system has its own turns");
    })
    .await;
}

#[tokio::test]
async fn the_live_renewals_of_a_system_are_found_by_their_tickets() {
    on_both(async |db| {
        for (organization, system) in [("contoso", Some("acme")), ("fabrikam", Some("other")), ("tailspin", None)] {
            let mut raised = renewal(organization);
            raised.request.ticket = system.map(|system| Ticket {
                system: system.to_owned(),
                number: "CHG0030022".to_owned(),
                sys_id: Some("0f4ac6c4b750230096c3e4f6ee11a9fe".to_owned()),
                url: None,
            });
            db.write(async |tx| tx.create_renewal(&raised, now()).await).await.unwrap();
        }
        let found = db.read(async |tx| tx.live_renewals_of_system("acme").await).await.unwrap();
        let of: Vec<_> = found.iter().map(|renewal| renewal.organization_id.as_str()).collect();
        assert_eq!(of, ["contoso"]);
    })
    .await;
}
