use std::collections::BTreeSet;
use std::path::Path;

use figment::Jail;

use super::*;

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../etc/taskd.toml");

fn flags(id: &str, coordination: &str) -> Flags {
    Flags { node_id: Some(id.to_owned()), coordination: Some(coordination.to_owned()), ..Flags::default() }
}

fn defaults() -> Config {
    daemon(Config::new("n1".parse().unwrap(), "zk:2181"))
}

/// The one thing in which a daemon differs from a node in another's process.
fn daemon(mut config: Config) -> Config {
    assert_eq!(config.vip, Vip::new(VipBackend::Off), "a library changes no addresses unless it is told to");
    config.vip.backend = VipBackend::Auto;
    config
}

/// Keys of the tables in `text`, `section.key`.
fn keys(text: &str) -> BTreeSet<String> {
    let table: toml::Table = text.parse().unwrap();
    table
        .iter()
        .flat_map(|(section, keys)| {
            keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}"))
        })
        .collect()
}

#[test]
fn the_example_file_is_the_defaults_and_names_every_key() {
    let loaded = load(Some(Path::new(EXAMPLE)), &flags("n1", "zk:2181")).unwrap();
    assert_eq!(loaded, defaults());

    let text = std::fs::read_to_string(EXAMPLE).unwrap();
    let uncommented: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') && setting.contains(" = ") => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all = keys(&toml::to_string(&full()).unwrap());
    assert_eq!(keys(&uncommented), all, "etc/taskd.toml shows exactly the keys that there are");
}

/// Every optional key set.
fn full() -> Config {
    let mut config = defaults();
    config.node.advertise = Some("n1:10601".to_owned());
    config.node.slots = Some(4);
    config.node.priority = Some(0);
    config.coordination.margin = Some(Duration::from_millis(2_100));
    config.coordination.auth_file = Some("/etc/taskd/auth".into());
    config.vip.on_take = Some("/etc/taskd/vip-taken".into());
    config.vip.on_release = Some("/etc/taskd/vip-released".into());
    config
}

#[test]
#[expect(clippy::result_large_err, reason = "figment's test jail asks for its error type")]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    Jail::expect_with(|jail| {
        jail.create_file(
            "taskd.toml",
            "[node]\nid = 'file'\ndata_dir = '/file'\nlisten = '127.0.0.1:1'\n[coordination]\nhosts = 'file:1'\n\
             [stop]\ndeadline = '9s'\n[node.labels]\nzone = 'a'\n",
        )?;
        jail.set_env("TASKD_NODE__DATA_DIR", "/env");
        jail.set_env("TASKD_NODE__LISTEN", "127.0.0.1:2");
        jail.set_env("TASKD_EXEC__ALLOW", "true");
        jail.set_env("TASKD_NODE__LABELS__RACK", "r7");
        jail.set_env("TASKD_ADDR", "127.0.0.1:10601");
        jail.set_env("TASKD_TASK_ID", "0123");
        let flags = Flags { listen: Some("127.0.0.1:3".to_owned()), ..Flags::default() };
        let config = load(Some(Path::new("taskd.toml")), &flags).unwrap();
        assert_eq!(config.node.id.as_str(), "file");
        assert_eq!(config.node.data_dir, Path::new("/env"));
        assert_eq!(config.node.listen.port(), 3);
        assert_eq!(config.node.labels["zone"], "a");
        assert_eq!(config.node.labels["rack"], "r7");
        assert!(config.exec.allow);
        assert_eq!(config.stop.deadline, Duration::from_secs(9));
        assert_eq!(config.tasks, defaults().tasks);
        Ok(())
    });
}

#[test]
fn the_coordination_flag_takes_a_root() {
    let config = load(None, &flags("1", "a:1,b:2/zos/taskd")).unwrap();
    assert_eq!(
        (config.coordination.hosts.as_deref(), config.coordination.root.as_str()),
        (Some("a:1,b:2"), "/zos/taskd")
    );
    assert_eq!(config.node.id.as_str(), "1", "a flag is text even if it looks like a number");
}

#[test]
#[expect(clippy::result_large_err, reason = "figment's test jail asks for its error type")]
fn errors_name_the_key_the_source_and_the_remedy() {
    const BASE: &str = "[node]\nid = 'n1'\n[coordination]\nhosts = 'zk:2181'\n";
    /// More of the file, variables, and what the error must say.
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let rows: [Row<'_>; 21] = [
        ("[exec]\nalow = true", &[], &["exec.alow", "taskd.toml", "did you mean \"allow\"?"]),
        ("[taks]\nheartbeat = '1s'", &[], &["taks", "taskd.toml", "did you mean \"tasks\"?"]),
        ("[stop]\nzzz = 1", &[], &["stop.zzz", "use one of deadline"]),
        (
            "",
            &[("TASKD_COORDINATION__HOST", "x:1")],
            &[
                "coordination.host",
                "environment variable TASKD_COORDINATION__HOST",
                "did you mean \"hosts\"?",
            ],
        ),
        ("", &[("TASKD_COORDINATON__HOSTS", "x:1")], &["coordinaton", "did you mean \"coordination\"?"]),
        ("[stop]\ndeadline = '5 parsecs'", &[], &["stop.deadline", "in ", "taskd.toml", "parsecs"]),
        ("[exec]\nallow = 'perhaps'", &[], &["exec.allow", "taskd.toml", "bool"]),
        ("[vip]\nbackend = 'kernel'", &[], &["vip.backend", "taskd.toml", "auto", "dry-run"]),
        ("[vip]\nprobe_count = 0", &[], &["vip.probe_count (in ", "use 1 to 10"]),
        (
            "[vip.interfaces]\nstorage = 'a/b'",
            &[],
            &["vip.interfaces.storage (in ", "\"a/b\" is no name of an interface", "ip link"],
        ),
        (
            "",
            &[("TASKD_VIP__ON_TAKE", "hook")],
            &["vip.on_take (from the environment variable TASKD_VIP__ON_TAKE)", "there is no program hook"],
        ),
        ("[log]\nformat = 'xml'", &[], &["log.format", "human", "json"]),
        ("[log]\nlevel = 'loud=loud=loud'", &[], &["log.level", "taskd.toml"]),
        (
            "",
            &[("TASKD_NODE__LISTEN", "0.0.0.0:10601")],
            &[
                "node.listen (from the environment variable TASKD_NODE__LISTEN)",
                "node.insecure = true",
                "TLS",
            ],
        ),
        (
            "",
            &[("TASKD_NODE__LISTEN", "0.0.0.0:1"), ("TASKD_NODE__INSECURE", "true")],
            &["node.advertise", "HOST:PORT"],
        ),
        ("", &[("TASKD_NODE__LISTEN", "localhost")], &["node.listen", "TASKD_NODE__LISTEN", "use IP:PORT"]),
        ("", &[("TASKD_COORDINATION__TICK", "4s")], &["coordination.margin", "session_timeout"]),
        ("[node]\nid = 'N_1'", &[], &["duplicate"]),
        (
            "embedded = true",
            &[],
            &["coordination.embedded (in ", "taskd.toml", "zk:2181", "leave out coordination.hosts"],
        ),
        (
            "",
            &[("TASKD_COORDINATION__EMBEDDED", "true")],
            &["coordination.embedded (from the environment variable TASKD_COORDINATION__EMBEDDED)"],
        ),
        ("embedded_listen = '2181'", &[], &["coordination.embedded_listen", "use IP:PORT"]),
    ];
    for (more, variables, expected) in rows {
        Jail::expect_with(|jail| {
            jail.create_file("taskd.toml", &format!("{BASE}{more}\n"))?;
            for (name, value) in variables {
                jail.set_env(name, value);
            }
            let error = load(Some(Path::new("taskd.toml")), &Flags::default()).unwrap_err().to_string();
            for text in expected {
                assert!(error.contains(text), "{more:?} {variables:?} should say {text:?}:\n{error}");
            }
            Ok(())
        });
    }
}

#[test]
fn what_must_be_given_is_asked_for() {
    let error =
        load(None, &Flags { node_id: Some("n1".to_owned()), ..Flags::default() }).unwrap_err().to_string();
    assert_eq!(
        error,
        "the configuration cannot be used: coordination.hosts: not set: name ZooKeeper's servers, in the file \
         (hosts = \"zk1:2181,zk2:2181,zk3:2181\") or with --coordination zk1:2181,zk2:2181,zk3:2181; or let this node run \
         its own coordination service, on one machine, with --embedded"
    );
    let error = load(None, &flags("N_1", "zk:2181")).unwrap_err().to_string();
    assert!(error.contains("node.id (from the flag --node-id): \"N_1\" is not a node id"), "{error}");
    let error = load(Some(Path::new("/nowhere/taskd.toml")), &Flags::default()).unwrap_err().to_string();
    assert!(error.contains("there is no file /nowhere/taskd.toml"), "{error}");
}

#[test]
#[expect(clippy::result_large_err, reason = "figment's test jail asks for its error type")]
fn a_node_with_a_coordination_service_of_its_own_needs_no_hosts() {
    Jail::expect_with(|jail| {
        let flags = Flags { embedded: true, allow_exec: true, ..flags("n1", "") };
        let flags = Flags { coordination: None, ..flags };
        let config = load(None, &flags).unwrap();
        let mut expected = daemon(Config::embedded("n1".parse().unwrap()));
        expected.exec.allow = true;
        expected.node.data_dir = data_dir();
        assert_eq!(config, expected);
        assert_eq!(config.coordination.embedded_listen.to_string(), "127.0.0.1:2181");

        jail.set_env("TASKD_COORDINATION__EMBEDDED_LISTEN", "10.0.0.1:2181");
        jail.set_env("TASKD_COORDINATION__SESSION_TIMEOUT", "41s");
        let error = load(None, &flags).unwrap_err().to_string();
        for text in [
            "coordination.embedded_listen (from the environment variable TASKD_COORDINATION__EMBEDDED_LISTEN)",
            "node.insecure = true",
            "coordination.session_timeout",
            "2 to 20 ticks (4s to 40s)",
        ] {
            assert!(error.contains(text), "should say {text:?}:\n{error}");
        }
        Ok(())
    });
}

#[test]
fn beyond_loopback_only_when_told() {
    let mut config = defaults();
    config.node.listen = "[::]:10601".parse().unwrap();
    config.node.advertise = Some("n1:10601".to_owned());
    assert!(config.check().is_err());
    config.node.insecure = true;
    assert_eq!(config.check(), Ok(()));
    for loopback in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
        let mut config = defaults();
        config.node.listen = loopback.parse().unwrap();
        assert_eq!(config.check(), Ok(()), "{loopback}");
    }
}

#[test]
fn addresses() {
    for good in ["a:1", "127.0.0.1:10601", "[::1]:2181", "zk-1.example.org:65535"] {
        assert_eq!(parse_address(good), Ok(good));
    }
    for bad in ["", "a", ":1", "a:", "a:0", "a:65536", "::1:1", "http://a:1", "a b:1"] {
        assert!(parse_address(bad).is_err(), "{bad:?}");
    }
}
