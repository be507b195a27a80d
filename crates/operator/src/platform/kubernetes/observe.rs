//! What a pod says of its instance, in words that tell what to do about it.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};

use super::pulls::Unpulled;
use crate::platform::ObservedInstance;

/// Container that PostgreSQL and its agent run in.
pub(super) const CONTAINER: &str = "postgres";

/// What is seen of an instance.
pub(super) fn instance(pod: &Pod) -> ObservedInstance {
    let status = pod.status.clone().unwrap_or_default();
    let unscheduled = unplaced(&status);
    let containers = status.container_statuses.unwrap_or_default();
    let own = containers.iter().find(|one| one.name == CONTAINER);
    let is_running = own.is_some_and(|own| {
        own.state
            .as_ref()
            .is_some_and(|state| state.running.is_some())
    });
    let is_going = pod.metadata.deletion_timestamp.is_some();
    let evicted = (status.phase.as_deref() == Some("Failed")).then(|| {
        let reason = status.reason.unwrap_or_else(|| "Failed".to_owned());
        let words = status.message.map(|words| format!(": {words}"));
        format!("its pod ended ({reason}){}", words.unwrap_or_default())
    });
    let inits = status.init_container_statuses.unwrap_or_default();
    let waiting = inits.iter().chain(own).find_map(waits);
    let going = is_going.then(|| "its pod is being stopped".to_owned());
    ObservedInstance {
        running: is_running && !is_going,
        restarts: own.map_or(0, |own| u32::try_from(own.restart_count).unwrap_or(0)),
        reason: [unscheduled, evicted, waiting, going]
            .into_iter()
            .flatten()
            .next(),
    }
}

/// Why no node takes the pod.
fn unplaced(status: &PodStatus) -> Option<String> {
    let mut conditions = status.conditions.iter().flatten();
    let condition = conditions
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let words = condition.message.clone().unwrap_or_default();
    Some(format!("its pod cannot be placed: {words}"))
}

/// What the pod of a task has to say: why it does not run, or its program's last word.
pub(super) fn task(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().flatten();
    let mut ended = containers.filter_map(|one| one.state.as_ref()?.terminated.as_ref());
    if let Some(ended) = ended.find(|ended| ended.exit_code != 0) {
        let line = ended.message.as_deref().unwrap_or_default().trim();
        let line = line.lines().last().unwrap_or_default();
        let said = line.strip_prefix("error: ").unwrap_or(line);
        return Some(if said.is_empty() {
            format!("its container ended with {}", ended.exit_code)
        } else {
            said.to_owned()
        });
    }
    unplaced(status).or_else(|| {
        let containers = status.container_statuses.iter().flatten();
        containers.filter_map(waits).next()
    })
}

/// Why a container does not run; none of one that does, or that has done its work.
fn waits(container: &ContainerStatus) -> Option<String> {
    let state = container.state.as_ref()?;
    let ended = state
        .terminated
        .as_ref()
        .filter(|ended| ended.exit_code != 0);
    if let Some(ended) = ended {
        return Some(format!(
            "container {} ended with {}{}",
            container.name,
            ended.exit_code,
            last_words(ended.message.as_deref())
        ));
    }
    let waiting = state.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    if matches!(reason, "ContainerCreating" | "PodInitializing" | "") {
        return None;
    }
    if let Some(cause) = not_pulled(container) {
        return Some(format!(
            "image of container {} cannot be pulled: {cause}",
            container.name
        ));
    }
    let before = container.last_state.as_ref();
    let before = before.and_then(|state| state.terminated.as_ref());
    let words = before.and_then(|ended| ended.message.as_deref());
    let words = last_words(words.or(waiting.message.as_deref()));
    Some(format!("container {}: {reason}{words}", container.name))
}

/// Why a container's image is not there: an image that cannot be had is said in two ways in turn, and both quote the same cause.
fn not_pulled(container: &ContainerStatus) -> Option<&str> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let words = waiting.message.as_deref().unwrap_or_default();
    let cause = words.split_once("ErrImagePull: ");
    matches!(reason, "ImagePullBackOff" | "ErrImagePull")
        .then(|| cause.map_or(words, |(_, cause)| cause))
}

/// The image that a pod waits for in vain; of several the first that it needs.
pub(super) fn unpulled(pod: &Pod) -> Option<Unpulled> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref()?);
    let inits = status.init_container_statuses.iter().flatten();
    let mut containers = inits.chain(status.container_statuses.iter().flatten());
    let (container, words) = containers.find_map(|one| Some((one, not_pulled(one)?)))?;
    let inits = spec.init_containers.iter().flatten();
    let mut said = inits.chain(&spec.containers);
    let image = said.find(|said| said.name == container.name)?.image.clone();
    Some(Unpulled {
        container: container.name.clone(),
        image: image.unwrap_or_default(),
        words: words.to_owned(),
    })
}

/// The last line of what a container left behind.
fn last_words(message: Option<&str>) -> String {
    let line = message.and_then(|text| text.trim().lines().last());
    line.map(|line| format!(": {line}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(status: serde_json::Value) -> ObservedInstance {
        let pod = json!({ "metadata": { "name": "pg-0" }, "spec": { "containers": [] }, "status": status });
        instance(&serde_json::from_value(pod).unwrap())
    }

    fn container(state: serde_json::Value) -> serde_json::Value {
        json!({ "name": "postgres", "ready": false, "restartCount": 2, "image": "", "imageID": "", "state": state })
    }

    #[test]
    fn a_pod_that_runs_has_nothing_to_say() {
        let running = json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } });
        let seen = told(json!({ "phase": "Running", "containerStatuses": [container(running)] }));
        assert!(seen.running && seen.reason.is_none());
        assert_eq!(seen.restarts, 2);
    }

    #[test]
    fn the_last_word_of_a_task_is_its_reason() {
        let pod = |status: serde_json::Value| {
            let pod = json!({ "metadata": {}, "spec": { "containers": [] }, "status": status });
            task(&serde_json::from_value(pod).unwrap())
        };
        let ended = |message: &str| {
            let ended = json!({ "terminated": { "exitCode": 1, "message": message } });
            pod(json!({ "phase": "Failed", "containerStatuses": [container(ended)] }))
        };
        let why = "bucket \"kubedb\" does not exist";
        assert_eq!(ended(&format!("one\nerror: {why}\n")).as_deref(), Some(why));
        assert_eq!(ended("").as_deref(), Some("its container ended with 1"));
        let running = json!({ "running": {} });
        assert_eq!(
            pod(json!({ "phase": "Running", "containerStatuses": [container(running)] })),
            None
        );
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_named() {
        let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
        let back_off = "Back-off pulling image \"kubedb:1\": ErrImagePull: 401 Unauthorized";
        let mut install = container(waiting("ImagePullBackOff", back_off));
        install["name"] = json!("install");
        let own = container(waiting("PodInitializing", ""));
        let pod = json!({
            "metadata": { "name": "pg-0" },
            "spec": { "containers": [{ "name": "postgres", "image": "postgres:15" }], "initContainers": [{ "name": "install", "image": "kubedb:1" }] },
            "status": { "initContainerStatuses": [install], "containerStatuses": [own] },
        });
        let expected = Unpulled {
            container: "install".to_owned(),
            image: "kubedb:1".to_owned(),
            words: "401 Unauthorized".to_owned(),
        };
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(unpulled(&pod), Some(expected));
        assert_eq!(unpulled(&Pod::default()), None);
    }

    #[test]
    fn a_pod_that_does_not_run_says_why() {
        let unplaced = json!([{ "type": "PodScheduled", "status": "False", "message": "0/3 nodes are available" }]);
        let seen = told(json!({ "phase": "Pending", "conditions": unplaced }));
        assert_eq!(
            seen.reason.as_deref(),
            Some("its pod cannot be placed: 0/3 nodes are available")
        );
        for (reason, message) in [
            ("ErrImagePull", "failed to resolve postgres:99"),
            (
                "ImagePullBackOff",
                "Back-off pulling image \"postgres:99\": ErrImagePull: failed to resolve postgres:99",
            ),
        ] {
            let pulls = json!({ "waiting": { "reason": reason, "message": message } });
            let seen = told(json!({ "phase": "Pending", "containerStatuses": [container(pulls)] }));
            assert_eq!(
                seen.reason.as_deref(),
                Some("image of container postgres cannot be pulled: failed to resolve postgres:99")
            );
        }
        let creating = json!({ "waiting": { "reason": "ContainerCreating" } });
        let seen = told(json!({ "phase": "Pending", "containerStatuses": [container(creating)] }));
        assert_eq!(seen.reason, None);
        let ended =
            json!({ "terminated": { "exitCode": 1, "message": "one\nerror: no PostgreSQL\n" } });
        let seen = told(json!({ "phase": "Running", "containerStatuses": [container(ended)] }));
        assert_eq!(
            seen.reason.as_deref(),
            Some("container postgres ended with 1: error: no PostgreSQL")
        );
        let seen =
            told(json!({ "phase": "Failed", "reason": "Evicted", "message": "low on disk" }));
        assert_eq!(
            seen.reason.as_deref(),
            Some("its pod ended (Evicted): low on disk")
        );
    }
}
