use super::*;

fn refused(code: u16, reason: &str, message: &str) -> CommandError {
    let status = Status {
        code,
        reason: reason.to_owned(),
        message: message.to_owned(),
        ..Status::default()
    };
    CommandError::from_kube(kube::Error::Api(Box::new(status)), "https://s/", None)
}

#[test]
fn the_servers_words_come_through() {
    let error = refused(404, "NotFound", "postgreses.kubedb.com \"x\" not found");
    let line = "Error from server (NotFound): postgreses.kubedb.com \"x\" not found";
    assert_eq!(error.line().as_deref(), Some(line));
    assert_eq!(error.hint(), None);
    assert_eq!(
        refused(502, "", "bad gateway").line().unwrap(),
        "Error from server (HTTP 502): bad gateway"
    );
}

#[test]
fn a_manifest_is_refused_in_the_same_words_with_and_without_webhooks() {
    let words = "Postgres.kubedb.com \"x\" is invalid: spec.version: no";
    for name in [
        "postgres.mutators.kubedb.com",
        "snapshot.validators.kubedb.com",
    ] {
        let message = format!("admission webhook \"{name}\" denied the request: {words}");
        let line = refused(422, "Invalid", &message).line();
        assert_eq!(line, refused(422, "Invalid", words).line());
    }
    // Others' webhooks are named, and so is ours where the object is not what is wrong.
    let message = "admission webhook \"policy.example.com\" denied the request: no";
    let line = refused(422, "Invalid", message).line().unwrap();
    assert!(line.ends_with(message));
}

#[test]
fn a_script_can_tell_absence_and_lateness_from_other_failures() {
    let absent = |kind: &str, name: &str| {
        let details = kube::core::response::StatusDetails {
            name: name.to_owned(),
            group: String::new(),
            kind: kind.to_owned(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        };
        let status = Status {
            code: 404,
            details: Some(details),
            ..Status::default()
        };
        CommandError::from_kube(kube::Error::Api(Box::new(status)), "https://s/", None).code()
    };
    assert_eq!(absent("postgreses", "x"), 3);
    assert_eq!(absent("namespaces", "demo"), 1);
    assert_eq!(absent("postgreses", ""), 1);
    assert_eq!(refused(409, "AlreadyExists", "").code(), 1);
    let late = CommandError::TimedOut {
        what: "x".to_owned(),
    };
    assert_eq!(late.code(), 4);
    let mut failures = Failures::default();
    assert!(failures.end().is_ok());
    failures.add(&late);
    assert_eq!(failures.end().unwrap_err().code(), 4);
    failures.add(&refused(409, "AlreadyExists", ""));
    failures.add(&late);
    assert_eq!(failures.end().unwrap_err().code(), 1);
}

#[test]
fn hints_name_what_to_run() {
    assert!(
        refused(401, "Unauthorized", "Unauthorized")
            .hint()
            .unwrap()
            .contains("--kubeconfig")
    );
    let error = refused(404, "NotFound", "namespaces \"demo\" not found");
    assert!(error.hint().unwrap().contains("kubectl create namespace"));
    let error = CommandError::NoServer {
        tried: vec!["/a".to_owned(), "/b".to_owned()],
    };
    assert_eq!(
        error.to_string(),
        "failed to find a server: no configuration at /a, /b"
    );
    assert!(error.hint().unwrap().contains("kubedb server"));
}

#[test]
fn a_store_that_is_not_reached_and_a_plan_of_nothing_say_where_to_look() {
    let unreached = || StoreError::Unreachable {
        label: "s3:b".to_owned(),
        object: "kubedb".to_owned(),
        reason: "connection refused".to_owned(),
        source: "connection refused".into(),
    };
    let archive = || ArchiveError::Store(unreached());
    for error in [
        CommandError::from(unreached()),
        CommandError::from(archive()),
        CommandError::from(FindError::Archive(archive())),
        CommandError::from(FindError::Walg(WalgError::Store(unreached()))),
    ] {
        let hint = error.hint().unwrap();
        assert!(hint.contains("reached from here"), "{error}: {hint}");
    }
    let place = "local:/backup (wal-g)".to_owned();
    let nothing = CommandError::from(FindError::Plan(PlanError::NoBase { place }));
    assert!(nothing.hint().unwrap().contains("basebackups_005"));
    let unknown = CommandError::from(FindError::Plan(PlanError::UnknownBase {
        name: "no".to_owned(),
        known: vec!["yes".to_owned()],
    }));
    assert!(unknown.hint().unwrap().contains("backupName"));
}
