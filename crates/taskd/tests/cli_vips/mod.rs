//! `taskd vip` and `taskd config` against a node that answers as it was told to.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cli_support::{FakeNode, UNREADABLE, run};

const FILE: &str = "[service.iscsi]\nvips = [{ address = \"172.0.20.241/24\", interface = \"storage\" }]\n";

#[test]
fn what_people_see_of_services() {
    let node = FakeNode::start();
    let (code, list, _) = node.run(&["vip", "list"]);
    assert_eq!(code, 0);
    for text in [
        "SERVICE  STATE",
        "iscsi    held     n1",
        "nfs      BLOCKED  n1",
        "172.0.20.241/24 on storage",
        "nfs: 52:54:00:12:34:56 answers",
        "what to do: take it off the other machine",
        "note: DRY RUN on n1",
        "n3       ",
        "kernel update",
    ] {
        assert!(list.contains(text), "should say {text:?}:\n{list}");
    }
    let (code, shown, _) = node.run(&["vip", "show", "iscsi"]);
    assert_eq!(code, 0);
    for text in ["holder   n1", "order    n1, n2: n1 is preferred", "dry run", "took it"] {
        assert!(shown.contains(text), "should say {text:?}:\n{shown}");
    }
    let (code, why, _) = node.run(&["vip", "why", "nfs"]);
    assert_eq!(
        (code, why.as_str()),
        (0, "BLOCKED: one reason\n  n1 is preferred\nto change it: take it off the other machine\n")
    );
    for command in ["show", "why"] {
        let (code, _, error) = node.run(&["vip", command, "ftp"]);
        assert_eq!((code, error.as_str()), (4, "taskd: there is no service ftp; there are iscsi, nfs\n"));
    }
    let (code, _, error) = node.run(&["vip", "show", "No_Name"]);
    assert_eq!(code, 2, "{error}");
}

/// Whether it was done is not known then; what to run tells it.
#[test]
fn an_order_whose_answer_is_lost() {
    let node = FakeNode::start();
    for (args, says) in [
        (vec!["vip", "move", "nfs", "--to", "n2"], "Look: taskd vip why nfs; or give the order again"),
        (vec!["vip", "move", "nfs"], "Look: taskd vip why nfs, before you give the order again"),
    ] {
        let (code, _, error) = node.run(&args);
        assert_eq!(code, 6, "{error}");
        assert!(error.contains("it is not known whether it was done") && error.contains(says), "{error}");
    }
}

/// The path of every key, `*` for names that people give and `[]` for lists.
fn keys(value: &Value) -> BTreeSet<String> {
    let below = |name: String, value: &Value| -> Vec<String> {
        let deeper = keys(value).into_iter().map(|key| format!("{name}.{key}"));
        std::iter::once(name.clone()).chain(deeper).collect()
    };
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| {
                let named = ["n1", "n2", "n3", "iscsi", "nfs"].contains(&key.as_str());
                below(if named { "*".to_owned() } else { key.clone() }, value)
            })
            .collect(),
        Value::Array(values) => values.iter().flat_map(keys).map(|key| format!("[].{key}")).collect(),
        _ => BTreeSet::new(),
    }
}

/// The keys that the help names are there, in every form.
#[test]
fn json_forms() {
    let node = FakeNode::start();
    let json = |args: &[&str]| -> Value {
        let (code, stdout, stderr) = node.run(&[args, &["-o", "json"]].concat());
        assert_eq!(code, 0, "{args:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap()
    };
    let list = json(&["vip", "list"]);
    insta::assert_snapshot!("keys_of_the_vip_page", keys(&list).into_iter().collect::<Vec<_>>().join("\n"));
    assert_eq!(list["services"][1]["state"], "blocked");
    assert_eq!(list["services"][0]["nodes"]["n1"]["phase"], "held");
    assert_eq!(list["nodes"][0]["backend"], "dry_run");
    assert_eq!((&list["answered_by"], &list["notes"][0]), (&"n1".into(), &"DRY RUN on n1".into()));
    assert_eq!(list["drained"]["n3"]["why"], "kernel update");
    assert_eq!(list["events"][0]["what"], "took it");
    let show = json(&["vip", "show", "iscsi"]);
    assert_eq!(show["vips"][0]["interface"], "storage");
    let why = json(&["vip", "why", "nfs"]);
    assert_eq!(why["reasons"][0], "one reason");
    let moved = json(&["vip", "move", "iscsi", "--to", "n2"]);
    assert_eq!(moved["done"], "iscsi goes to n2");
    assert_eq!(json(&["vip", "drain", "n2", "--why", "x"])["done"], "n2 is drained");
    assert_eq!(json(&["vip", "undrain", "n2"])["done"], "n2 may hold services again");

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vips.toml");
    std::fs::write(&file, FILE).unwrap();
    let file = file.to_str().unwrap();
    let check = json(&["config", "check", file]);
    assert_eq!(check, serde_json::json!({ "services": 1, "addresses": 1, "warnings": [] }));
    let applied = json(&["config", "apply", file]);
    assert_eq!((&applied["revision"], &applied["changes"][0]), (&1.into(), &"service iscsi: new".into()));
    assert!(applied["warnings"][0].is_string());
    let diff = json(&["config", "diff", file]);
    assert_eq!(diff, serde_json::json!({ "revision": 1, "changes": [], "warnings": [] }));
    let history = json(&["config", "history"]);
    assert_eq!(history[0]["revision"], 1);
    let text = json(&["config", "history", "--show", "1"]);
    assert_eq!(text["text"], FILE);
    let forms = [
        ("vip show", show),
        ("vip why", why),
        ("vip move", moved),
        ("config check", check),
        ("config diff", diff),
        ("config apply", applied),
        ("config history", history),
        ("config history --show", text),
    ];
    let forms: Vec<_> = forms
        .iter()
        .map(|(what, form)| format!("{what}: {}", keys(form).into_iter().collect::<Vec<_>>().join(" ")))
        .collect();
    insta::assert_snapshot!("keys_of_the_other_forms", forms.join("\n"));
}

#[test]
fn a_configuration_and_who_changed_it_meanwhile() {
    let node = FakeNode::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vips.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, FILE).unwrap();

    let (code, text, _) = node.run(&["config", "history"]);
    assert_eq!((code, text.as_str()), (0, "no configuration was ever applied: taskd config apply FILE\n"));
    let (code, text, _) = node.run(&["config", "diff", file]);
    assert_eq!(
        (code, text),
        (
            1,
            format!(
                "service iscsi: new\nservice iscsi: + 172.0.20.241/24 on storage\nagainst revision 0: taskd config apply \
                 {file} --expect 0\n"
            )
        )
    );
    let (code, text, error) = node.run(&["config", "apply", file, "--expect", "0"]);
    assert_eq!((code, text.as_str()), (0, "service iscsi: new\nrevision 1 holds\n"));
    assert!(error.contains("worth a look: service.iscsi.spread"), "{error}");
    let (code, text, _) = node.run(&["config", "diff", file]);
    assert_eq!((code, text.as_str()), (0, "nothing differs from revision 1\n"));

    let (code, _, error) = node.run(&["config", "apply", file, "--expect", "0"]);
    assert_eq!(code, 1, "{error}");
    assert!(error.contains("revision 0 was expected, but 1 holds"), "{error}");
    let (code, text, _) = node.run(&["config", "history", "--show", "1"]);
    assert_eq!((code, text.as_str()), (0, FILE), "as it was, so that it can be applied again");
    let (code, _, _) = node.run(&["config", "history", "--show", "7"]);
    assert_eq!(code, 4);
}

/// Services go only when that is said, and what nobody can read is replaced only when that is said.
#[test]
fn what_an_apply_would_destroy_is_asked_for() {
    let node = FakeNode::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vips.toml");
    let file = path.to_str().unwrap();
    std::fs::write(&path, FILE).unwrap();
    assert_eq!(node.run(&["config", "apply", file]).0, 0);

    std::fs::write(&path, "").unwrap();
    let (code, text, _) = node.run(&["config", "diff", file]);
    assert_eq!(code, 1);
    assert!(text.contains(&format!("taskd config apply {file} --expect 1 --remove")), "{text}");
    for expect in ["1", "any"] {
        let (code, text, error) = node.run(&["config", "apply", file, "--expect", expect]);
        assert_eq!((code, text.as_str()), (1, ""), "{error}");
        for says in
            ["revision 1 has services that are not in the file", "iscsi", "Nothing was changed", "--remove"]
        {
            assert!(error.contains(says), "should say {says:?}: {error}");
        }
    }
    assert_eq!(node.run(&["config", "apply", file, "--remove"]).0, 0);

    std::fs::write(&path, format!("{UNREADABLE}\n{FILE}")).unwrap();
    assert_eq!(node.run(&["config", "apply", file]).0, 0);
    std::fs::write(&path, FILE).unwrap();
    // 1 would be a difference.
    let (code, _, error) = node.run(&["config", "diff", file]);
    assert_eq!((code, error.contains("cannot be read")), (2, true), "{error}");
    let (code, _, error) = node.run(&["config", "apply", file]);
    assert_eq!((code, error.contains("cannot be read")), (1, true), "{error}");
    let (code, _, error) = node.run(&["config", "apply", file, "--expect", "any"]);
    assert_eq!(code, 0, "{error}");
    assert_eq!(node.run(&["config", "diff", file]).0, 0);
    let (code, _, error) = node.run(&["config", "apply", file, "--expect", "none"]);
    assert_eq!((code, error.contains("`any`")), (2, true), "{error}");
}

#[test]
fn a_file_is_checked_without_any_node() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vips.toml");
    let file = path.to_str().unwrap();
    let (code, _, error) = run(&["config", "check", file]);
    assert_eq!(code, 2);
    assert!(error.contains("cannot be read"), "{error}");

    std::fs::write(&path, FILE).unwrap();
    let (code, text, _) = run(&["config", "check", file]);
    assert_eq!((code, text), (0, format!("{file}: fine: 1 service, 1 address\n")));

    // What the cluster would refuse, and what it would take with a remark.
    std::fs::write(&path, format!("{FILE}takeover_grace = \"100ms\"\n")).unwrap();
    let (code, _, error) = run(&["config", "check", file]);
    assert_eq!(code, 2, "{error}");
    assert!(
        error.contains("session timeout of 4s") && error.contains("service.iscsi.takeover_grace"),
        "{error}"
    );
    std::fs::write(&path, format!("{FILE}spread = \"alone\"\n")).unwrap();
    let (code, _, error) = run(&["config", "check", file]);
    assert_eq!(code, 0, "{error}");
    assert!(error.contains("worth a look: service.iscsi.spread"), "{error}");

    std::fs::write(
        &path,
        "[service.iscsi]\nvips = [{ address = \"nonsense\", interface = \"storage\" }]\nfailbac = true\n",
    )
    .unwrap();
    for command in ["check", "diff", "apply"] {
        // Nobody listens there: a file with mistakes is not worth a question.
        let (code, _, error) = run(&["config", command, file, "--addr", "127.0.0.1:1"]);
        assert_eq!(code, 2, "{error}");
        for text in
            ["cannot be applied", "line 2: service.iscsi.vips[0].address", "line 3: service.iscsi.failbac"]
        {
            assert!(error.contains(text), "should say {text:?}:\n{error}");
        }
    }
}
