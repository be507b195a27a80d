//! Work that a Job does: begun, looked at, taken away.

use k8s_openapi::api::{
    batch::v1::{Job, JobCondition},
    core::v1::Pod,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};
use kubedb_api::agent_config::DataTask;

use crate::guarded::of_uid;
use serde_json::Value;

use super::{KubernetesPlatform, act, observe, refused, render::task as render};
use crate::platform::{PlatformError, TaskState};

/// Label that Kubernetes gives to the pods of a Job.
const JOB_NAME: &str = "job-name";

impl KubernetesPlatform {
    fn jobs(&self, namespace: &str) -> Api<Job> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Begins it unless it was begun, and says where it stands.
    pub(super) async fn task(
        &self,
        task: &DataTask,
        image_pull_secrets: &[String],
    ) -> Result<TaskState, PlatformError> {
        let (namespace, name) = (&task.namespace, render::job_name(task));
        let doing = |verb: &str| format!("{verb} Job {namespace}/{name}");
        let jobs = self.jobs(namespace);
        let found = jobs.get_opt(&name).await;
        let Some(job) = found.map_err(|error| act(doing("get"), error))? else {
            let job: Value = render::job(task, image_pull_secrets, &self.options);
            let job: Job =
                serde_json::from_value(job).map_err(|error| act(doing("make"), error))?;
            return match jobs.create(&PostParams::default(), &job).await {
                Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => Ok(busy()),
                other => other
                    .map(|_| busy())
                    .map_err(|error| refused(doing("make"), error)),
            };
        };
        if job.metadata.deletion_timestamp.is_some() {
            return Ok(busy());
        }
        if condition(&job, "Complete").is_some() {
            return Ok(TaskState::Succeeded);
        }
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let its = ListParams::default().labels(&format!("{JOB_NAME}={name}"));
        let pods = pods.list(&its).await;
        let pods = pods.map_err(|error| act(doing("look at the pods of"), error))?;
        let waits = pods.items.iter();
        let mut waits = waits.filter_map(|pod| Some((pod, observe::unpulled(pod)?)));
        let said = match waits.next() {
            Some((pod, unpulled)) => Some(self.unpulled(pod, &unpulled).await),
            None => pods.items.iter().find_map(observe::task),
        };
        let Some(failed) = condition(&job, "Failed") else {
            return Ok(TaskState::Running { obstacle: said });
        };
        let told = failed.message.clone();
        let reason = said.or(told).unwrap_or_else(|| "its Job failed".to_owned());
        Ok(TaskState::Failed { reason })
    }

    /// Takes a Job away, and its pods.
    pub(super) async fn forget(&self, task: &DataTask) -> Result<(), PlatformError> {
        let (namespace, name) = (&task.namespace, render::job_name(task));
        let doing = || format!("delete Job {namespace}/{name}");
        let jobs = self.jobs(namespace);
        let found = jobs.get_metadata_opt(&name).await;
        let Some(found) = found.map_err(|error| act(doing(), error))? else {
            return Ok(());
        };
        let parameters = of_uid(found.uid());
        match jobs.delete(&name, &parameters).await {
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
            other => other.map(drop).map_err(|error| act(doing(), error)),
        }
    }
}

fn busy() -> TaskState {
    TaskState::Running { obstacle: None }
}

fn condition<'a>(job: &'a Job, type_: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == type_ && condition.status == "True")
}
