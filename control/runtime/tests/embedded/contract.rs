//! What every runtime promises, asked of two of them.

use codiusd_runtime::{NoopRuntime, PodSpec, PodState, Runtime, RuntimeError};

use crate::kit::{Host, collect, id, state_of};

pub(crate) async fn embedded_keeps_the_contract(host: Host) {
    keeps_the_contract(&host.open(), host.pod('a', vec![host.web("web", 80)]), &host.image).await;
    assert_eq!(host.holdings().len(), 0, "{:?}", host.holdings());
}

pub(crate) async fn noop_keeps_the_contract(host: Host) {
    keeps_the_contract(&NoopRuntime::new(), host.pod('a', vec![host.web("web", 80)]), &host.image).await;
}

async fn keeps_the_contract(runtime: &dyn Runtime, spec: PodSpec, image: &str) {
    let name = spec.id.clone();
    runtime.check_image(image).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);
    runtime.stop(&name).await.unwrap();
    assert!(matches!(runtime.logs(&name, true).await, Err(RuntimeError::NoSuchPod(_))));

    let running = runtime.start(spec.clone()).await.unwrap();
    assert!(matches!(runtime.start(spec.clone()).await, Err(RuntimeError::AlreadyExists(taken)) if taken == name));
    let listed = runtime.list().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].state, PodState::Running(running));
    assert_eq!(listed[0].memory_bytes, spec.machine.memory_bytes);
    assert_eq!(collect(runtime.logs(&name, false).await.unwrap()).await, [""; 0]);
    assert_eq!(state_of(runtime, &id('b')).await, None);

    runtime.stop(&name).await.unwrap();
    runtime.stop(&name).await.unwrap();
    assert_eq!(runtime.list().await.unwrap(), []);

    let again = runtime.start(spec).await.unwrap();
    assert_ne!(again.incarnation, running.incarnation);
    runtime.stop(&name).await.unwrap();
}
