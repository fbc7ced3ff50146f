//! The uplink to a parent that goes away and comes back.

use std::time::Duration;

use codiusd_ilp::{
    ildcp::Account,
    service::{Config, Interledger},
    stream::sender::send,
};
use tokio::{sync::watch, time};

use crate::{
    connector::{anywhere, link, start},
    credit_sink::{MemoryLedger, receiver},
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn known(account: &mut watch::Receiver<Option<Account>>) -> Account {
    let known = time::timeout(PATIENCE, account.wait_for(Option::is_some)).await.expect("the parent tells our account");
    known.unwrap().clone().unwrap()
}

#[tokio::test]
async fn is_paid_through_a_parent_before_and_after_it_restarts() {
    let ledger = MemoryLedger::with(&["order"], 1000);
    let elsewhere = || receiver(&MemoryLedger::with(&[], 0));
    let parent = start(elsewhere(), anywhere(), "parent").await;
    let address = parent.listening()[0];
    let own = receiver(&ledger);
    let url = format!("btp+ws://pod:secret@{address}").parse().unwrap();
    let uplink = Interledger::start(Config::Uplink { url }, own.clone()).await.unwrap();
    let mut account = uplink.account();
    let mut addresses = Vec::new();
    let mut parent = Some(parent);
    for (name, amount_max, received) in [("parent", 600, 600), ("parent", 100, 700), ("stepparent", 5000, 1000)] {
        let up = match parent.take() {
            Some(parent) => parent,
            None => start(elsewhere(), address, name).await,
        };
        let account_now = known(&mut account).await;
        let payer = link(address, "payer").await;
        let (to, secret) = own.pay_to(&account_now, "order").unwrap();
        send(&payer, &payer.account().await.unwrap(), &to, &secret, amount_max, &mut |_| {}).await.unwrap();
        assert_eq!(ledger.terms("order").received, received, "through {name}");
        addresses.push(account_now.address.to_string());
        up.stop().await;
        time::timeout(PATIENCE, account.wait_for(Option::is_none)).await.expect("the loss is noticed").unwrap();
    }
    assert_eq!(addresses, ["private.parent.pod", "private.parent.pod", "private.stepparent.pod"]);
    time::timeout(PATIENCE, uplink.stop()).await.expect("stops while it waits to connect again");
}
