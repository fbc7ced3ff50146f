//! Whom the edge connects to and whom it believes.

use codiusd_proxy::{Limits, PodNetworks, Policy, UpstreamPolicy};

use crate::kit::{EdgeFixture, Pod, mirror};

#[tokio::test]
async fn a_pod_is_not_reached_where_no_pod_may_be() {
    let only = |networks: &[&str]| PodNetworks::Only(networks.iter().map(|network| network.parse().unwrap()).collect());
    let networks = [PodNetworks::Unrestricted, only(&["127.0.0.0/8"]), only(&["10.0.0.0/8"]), only(&[])];
    for networks in networks {
        let fixture = EdgeFixture::under(Limits::default(), Policy { upstreams: UpstreamPolicy::Pods(networks), ..Policy::default() });
        fixture.control(|stream| mirror(stream, "control"));
        let pod = Pod::mirror().await;
        let name = fixture.publish(1, pod.address);
        for _ in 0..2 {
            let answer = fixture.ask(&format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n")).await;
            assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
            assert!(!answer.body.contains("127."), "{answer:?}");
        }
        assert_eq!(pod.accepted(), 0);
        assert_eq!(fixture.metric("codius_edge_faults_total"), 2.0);
        assert_eq!(fixture.ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.status, 200, "the control plane is not a pod");
    }
}

#[tokio::test]
async fn a_proxy_in_front_is_believed_and_added_to_when_it_is_named() {
    let fixture =
        EdgeFixture::under(Limits::default(), Policy { trusted_proxies: vec!["127.0.0.1".parse().unwrap()], ..Policy::default() });
    let pod = Pod::mirror().await;
    let name = fixture.publish(1, pod.address);
    let seen = fixture
        .ask(&format!(
            "GET / HTTP/1.1\r\nHost: {name}\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
             X-Forwarded-Host: public.example\r\nForwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7\r\n\r\n"
        ))
        .await
        .body;
    let mut lines: Vec<&str> = seen.trim_end().lines().skip(1).filter(|line| !line.starts_with("x-request-id: ")).collect();
    lines.sort_unstable();
    let expected = [
        "forwarded: for=192.0.2.7, for=127.0.0.1",
        &format!("host: {name}"),
        "x-forwarded-for: 6.6.6.6, 192.0.2.7, 127.0.0.1",
        "x-forwarded-host: public.example",
        "x-forwarded-proto: https",
    ];
    assert_eq!(lines, expected);
}
