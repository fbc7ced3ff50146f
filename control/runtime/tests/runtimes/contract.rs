//! What every runtime promises, asked of all of them.

use std::sync::Arc;

use codiusd_kit::hyperd::{self, Hyperd, HyperdBuilder};
use codiusd_runtime::network::{Enforcer, Links, NetworkRules, Policy, restored_counter};
use codiusd_runtime::{
    ContainerSpec, HyperdConfig, HyperdRuntime, LogStream, Machine, NoopRuntime, PodSpec, PodState, Runtime, RuntimeError,
};
use futures::StreamExt;
use tokio::time::timeout;

use crate::kit::{Host, PATIENCE, collect, get, id, state_of, until_exited};

/// A runtime, and how to have it run something.
struct Subject<'a> {
    /// Opens it, as one process after another would: the one before is dropped first.
    open: &'a dyn Fn() -> Box<dyn Runtime>,
    /// An image with busybox at `/bin/sh`.
    image: &'a str,
    /// Whether it really runs anything, and remembers it.
    is_real: bool,
}

pub(crate) async fn embedded_keeps_the_contract(host: Host) {
    let open = || -> Box<dyn Runtime> { Box::new(host.open()) };
    Subject { open: &open, image: &host.image, is_real: true }.keeps_the_contract().await;
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn noop_keeps_the_contract(host: Host) {
    let open = || -> Box<dyn Runtime> { Box::new(NoopRuntime::new()) };
    Subject { open: &open, image: &host.image, is_real: false }.keeps_the_contract().await;
}

pub(crate) async fn hyperd_keeps_the_contract(_: Host) {
    let hyperd = double().start().await;
    let open = || -> Box<dyn Runtime> { Box::new(open_hyperd(&hyperd)) };
    Subject { open: &open, image: hyperd.image(), is_real: true }.keeps_the_contract().await;
    let open = || -> Box<dyn Runtime> { Box::new(open_guarded(&hyperd, &hyperd.bridge())) };
    Subject { open: &open, image: hyperd.image(), is_real: true }.keeps_the_contract().await;
    assert_eq!(hyperd.vms(), 0);
}

pub(crate) fn double() -> HyperdBuilder {
    Hyperd::builder(&hyperd::binary().display().to_string()).time_scale(0.05)
}

pub(crate) fn open_hyperd(hyperd: &Hyperd) -> HyperdRuntime {
    HyperdRuntime::new(HyperdConfig { logs: hyperd.logs(), ..HyperdConfig::new(hyperd.socket()) }, &prometheus::Registry::new()).unwrap()
}

/// The same with addresses, and a policy, of our own.
pub(crate) fn open_guarded(hyperd: &Hyperd, bridge: &str) -> HyperdRuntime {
    let policy = Policy::new(&format!("codius-{bridge}"), Links::Bridge(bridge.to_owned()), None, &NetworkRules::default());
    let guard = Some(Arc::new(Enforcer::install(&policy, restored_counter()).unwrap()));
    HyperdRuntime::new(HyperdConfig { guard, ..HyperdConfig::new(hyperd.socket()) }, &prometheus::Registry::new()).unwrap()
}

pub(crate) fn pod(seed: char, containers: Vec<ContainerSpec>) -> PodSpec {
    PodSpec { id: id(seed), machine: Machine { vcpus: 1, memory_bytes: 64 << 20, disk_bytes: Machine::DISK_DEFAULT }, containers }
}

pub(crate) fn command(image: &str, name: &str, command: &[&str]) -> ContainerSpec {
    let command = command.iter().map(ToString::to_string).collect();
    ContainerSpec { name: name.to_owned(), image: image.to_owned(), command: Some(command), workdir: None, env: Vec::new() }
}

pub(crate) fn script(image: &str, name: &str, script: &str) -> ContainerSpec {
    command(image, name, &["/bin/sh", "-c", script])
}

/// A container that serves its name on a port.
pub(crate) fn web(image: &str, name: &str, port: u16) -> ContainerSpec {
    let page = format!("mkdir -p /tmp/{name} && echo {name} >/tmp/{name}/index.html");
    script(image, name, &format!("{page} && exec /bin/busybox httpd -f -p {port} -h /tmp/{name}"))
}

impl Subject<'_> {
    async fn keeps_the_contract(&self) {
        let runtime = (self.open)();
        self.an_unknown_pod_is_nothing(runtime.as_ref()).await;
        self.a_pod_starts_once_and_stops_twice(runtime.as_ref()).await;
        if !self.is_real {
            return;
        }
        self.a_failed_start_leaves_nothing_and_can_be_repeated(runtime.as_ref()).await;
        self.logs_are_lines_of_containers(runtime.as_ref()).await;
        self.exits_are_seen(runtime.as_ref()).await;
        drop(runtime);
        self.the_next_process_adopts_pods().await;
        assert_eq!((self.open)().list().await.unwrap(), []);
    }

    async fn an_unknown_pod_is_nothing(&self, runtime: &dyn Runtime) {
        runtime.ready().await.unwrap();
        runtime.check_image(self.image).await.unwrap();
        assert_eq!(runtime.list().await.unwrap(), []);
        runtime.stop(&id('a')).await.unwrap();
        assert!(matches!(runtime.logs(&id('a'), true).await, Err(RuntimeError::NoSuchPod(_))));
    }

    async fn a_pod_starts_once_and_stops_twice(&self, runtime: &dyn Runtime) {
        let (spec, name) = (pod('a', vec![web(self.image, "web", 8080)]), id('a'));
        let run = runtime.start(spec.clone()).await.unwrap();
        assert!(matches!(runtime.start(spec.clone()).await, Err(RuntimeError::AlreadyExists(taken)) if taken == name));
        let listed = runtime.list().await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].state, listed[0].degraded), (PodState::Running(run), false));
        let bytes = spec.machine.memory_bytes;
        assert!((bytes..=bytes + runtime.capabilities().memory_overhead.of(bytes)).contains(&listed[0].memory_bytes), "{listed:?}");
        if self.is_real {
            assert_eq!(get(run, 8080).await, "web");
        }
        assert_eq!(state_of(runtime, &id('b')).await, None);
        runtime.stop(&name).await.unwrap();
        runtime.stop(&name).await.unwrap();
        assert_eq!(runtime.list().await.unwrap(), []);

        let again = runtime.start(spec).await.unwrap();
        assert_ne!(again.incarnation, run.incarnation);
        runtime.stop(&name).await.unwrap();
    }

    async fn a_failed_start_leaves_nothing_and_can_be_repeated(&self, runtime: &dyn Runtime) {
        let digest = "0".repeat(64);
        let (_, name) = self.image.split_once('/').unwrap_or_default();
        let registry = self.image.strip_suffix(name).unwrap_or_default();
        let unknown = ContainerSpec { image: format!("{registry}unknown@sha256:{digest}"), ..web(self.image, "second", 8081) };
        let broken = [
            pod('c', vec![web(self.image, "web", 8080), unknown]),
            pod('c', vec![web(self.image, "web", 8080), command(self.image, "second", &["/bin/not-there"])]),
        ];
        for spec in broken {
            for _ in 0..2 {
                let error = runtime.start(spec.clone()).await.expect_err("it can't be started");
                assert!(!matches!(error, RuntimeError::AlreadyExists(_)), "{error:?}");
                assert_eq!(runtime.list().await.unwrap(), [], "{error:?}");
            }
        }
        let run = runtime.start(pod('c', vec![web(self.image, "web", 8080), web(self.image, "second", 8081)])).await.unwrap();
        assert_eq!((get(run, 8080).await, get(run, 8081).await), ("web".to_owned(), "second".to_owned()));
        runtime.stop(&id('c')).await.unwrap();
    }

    async fn logs_are_lines_of_containers(&self, runtime: &dyn Runtime) {
        let loud = script(self.image, "lo_ud", "echo out; echo err >&2; printf last; read nothing </dev/zero");
        let quiet = script(self.image, "quiet", "exec sleep 600");
        runtime.start(pod('d', vec![loud, quiet])).await.unwrap();
        let mut followed = runtime.logs(&id('d'), true).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < 2 {
            let line = timeout(PATIENCE, followed.next()).await.expect("a line in time").expect("the log goes on").unwrap();
            assert_eq!(line.container, "lo_ud");
            seen.push((line.stream, String::from_utf8(line.text.to_vec()).unwrap()));
        }
        seen.sort_by_key(|(stream, _)| stream.as_str());
        assert_eq!(seen, [(LogStream::Stderr, "err".to_owned()), (LogStream::Stdout, "out".to_owned())]);
        runtime.stop(&id('d')).await.unwrap();
        timeout(PATIENCE, followed.for_each(async |_| {})).await.expect("a followed log ends with its pod");
        assert!(matches!(runtime.logs(&id('d'), false).await, Err(RuntimeError::NoSuchPod(_))));
    }

    async fn exits_are_seen(&self, runtime: &dyn Runtime) {
        let (short, long) = (script(self.image, "short", "echo gone; exit 3"), script(self.image, "long", "exec sleep 600"));
        runtime.start(pod('e', vec![short.clone(), long])).await.unwrap();
        assert!(matches!(state_of(runtime, &id('e')).await, Some(PodState::Running(_))), "one container is enough");
        runtime.start(pod('f', vec![short])).await.unwrap();
        until_exited(runtime, &id('f')).await;
        assert_eq!(collect(runtime.logs(&id('f'), false).await.unwrap()).await, ["gone"], "an exited pod's log can be read");
        assert_eq!(collect(runtime.logs(&id('f'), true).await.unwrap()).await, ["gone"], "and following it ends");
        assert!(matches!(state_of(runtime, &id('e')).await, Some(PodState::Running(_))));
        for pod in ['e', 'f'] {
            runtime.stop(&id(pod)).await.unwrap();
        }
    }

    async fn the_next_process_adopts_pods(&self) {
        let first = (self.open)();
        let run = first.start(pod('g', vec![web(self.image, "web", 8080)])).await.unwrap();
        drop(first);
        let second = (self.open)();
        let found = state_of(second.as_ref(), &id('g')).await;
        let Some(PodState::Running(adopted)) = found else { panic!("it still runs, but is {found:?}") };
        assert_eq!((adopted.address, adopted.incarnation), (run.address, run.incarnation));
        assert_eq!(get(adopted, 8080).await, "web");
        second.stop(&id('g')).await.unwrap();
    }
}
