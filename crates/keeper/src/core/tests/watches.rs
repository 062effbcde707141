use super::*;
use crate::wire::{Id, Perms, WatcherKind, Watches};

/// Sets watches, makes changes as another client, and compares what the first hears.
fn check(watches: &[Request], changes: &[Request], heard: &[&str]) {
    let mut server = Server::new().with_nodes(&["/a", "/a/b", "/z"]);
    let (watching, changing) = (server.connect(), server.connect());
    for watch in watches {
        // A watch on existence is answered with NoNode.
        let _ = server.ask(watching, watch);
    }
    for change in changes {
        server.ask(changing, change).unwrap();
    }
    assert_eq!(server.told(watching), heard, "{watches:?} and then {changes:?}");
}

#[test]
fn watches_that_fire_once() {
    let twice = [set("/a/b"), set("/a/b")];
    check(&[data("/a/b", true)], &twice, &["NodeDataChanged /a/b"]);
    check(&[data("/a/b", true), exists("/a/b", true)], &twice, &["NodeDataChanged /a/b"]);
    check(&[data("/a/b", false)], &twice, &[]);
    let again = [create("/n"), set("/n"), delete("/n")];
    check(&[exists("/n", true)], &again, &["NodeCreated /n"]);
    check(&[data("/n", true)], &again, &[]);
    check(&[children("/n", true)], &again, &[]);
    let below = [create("/a/n"), set("/a/n"), delete("/a/n")];
    check(&[children("/a", true)], &below, &["NodeChildrenChanged /a"]);
    check(&[data("/a", true), exists("/a", true)], &below, &[]);
    // The root is watched by its name.
    check(&[children("/", true)], &[create("/n")], &["NodeChildrenChanged /"]);
    check(&[children("", true), data("", true)], &[create("/n"), set("/")], &[]);
}

#[test]
fn a_deletion_is_heard_once_whatever_watched() {
    let deletion = [delete("/a/b"), create("/a/b"), delete("/a/b")];
    let once = ["NodeDeleted /a/b"];
    check(&[data("/a/b", true)], &deletion, &once);
    check(&[children("/a/b", true)], &deletion, &once);
    check(&[data("/a/b", true), children("/a/b", true)], &deletion, &once);
    check(
        &[exists("/a/b", true), children("/a/b", true), children("/a", true)],
        &deletion,
        &["NodeDeleted /a/b", "NodeChildrenChanged /a"],
    );
}

#[test]
fn watches_that_stay() {
    let changes =
        [set("/a"), create("/a/n"), set("/a/n"), delete("/a/n"), delete("/a/b"), delete("/a"), create("/a")];
    let changed = "NodeChildrenChanged /a";
    check(
        &[add_watch("/a", 0)],
        &changes,
        &["NodeDataChanged /a", changed, changed, changed, "NodeDeleted /a", "NodeCreated /a"],
    );
    check(
        &[add_watch("/a", 1)],
        &changes,
        &[
            "NodeDataChanged /a",
            "NodeCreated /a/n",
            "NodeDataChanged /a/n",
            "NodeDeleted /a/n",
            "NodeDeleted /a/b",
            "NodeDeleted /a",
            "NodeCreated /a",
        ],
    );
    check(
        &[add_watch("/", 1), add_watch("/a", 1)],
        &[set("/a/b"), set("/z")],
        &["NodeDataChanged /a/b", "NodeDataChanged /z"],
    );
}

#[test]
fn one_watch_per_kind_and_path_whatever_its_mode() {
    let changes = [set("/a"), set("/a"), create("/a/n"), delete("/a/n")];
    let changed = "NodeChildrenChanged /a";
    // One that fires once replaces one that stays, of its own kind only.
    check(&[add_watch("/a", 0), data("/a", true)], &changes, &["NodeDataChanged /a", changed, changed]);
    check(
        &[add_watch("/a", 0), children("/a", true)],
        &changes,
        &["NodeDataChanged /a", "NodeDataChanged /a", changed],
    );
    check(
        &[data("/a", true), add_watch("/a", 0)],
        &changes[..2],
        &["NodeDataChanged /a", "NodeDataChanged /a"],
    );
    check(&[add_watch("/a", 1), add_watch("/a", 0)], &[set("/a/b")], &[]);
    // A recursive one is silent about children, one beside it that fires once is not.
    check(
        &[add_watch("/a", 1), children("/a", true)],
        &changes[2..],
        &["NodeCreated /a/n", changed, "NodeDeleted /a/n"],
    );
}

#[test]
fn removing_and_asking_for_watches() {
    let kinds = |kind: WatcherKind| kind.number();
    let remove = |path: &str, kind| Request::RemoveWatches { path: path.to_owned(), kind: kinds(kind) };
    let ask = |path: &str, kind| Request::CheckWatches { path: path.to_owned(), kind: kinds(kind) };
    let mut server = Server::new().with_nodes(&["/a"]);
    let (client, other) = (server.connect(), server.connect());
    server.ask(client, &data("/a", true)).unwrap();
    let rows = [
        (client, ask("/a", WatcherKind::Data), Ok(Reply::Empty)),
        (client, ask("/a", WatcherKind::Children), Err(Code::NoWatcher)),
        (client, ask("/a", WatcherKind::Any), Ok(Reply::Empty)),
        (other, ask("/a", WatcherKind::Any), Ok(Reply::Empty)),
        (other, remove("/a", WatcherKind::Any), Err(Code::NoWatcher)),
        (client, remove("/a", WatcherKind::Children), Err(Code::NoWatcher)),
        (client, add_watch("/a", 1), Ok(Reply::Error(0))),
        (client, remove("/a", WatcherKind::Children), Ok(Reply::Empty)),
        (client, remove("/a", WatcherKind::Any), Ok(Reply::Empty)),
        (client, remove("/a", WatcherKind::Any), Err(Code::NoWatcher)),
        (client, ask("/a", WatcherKind::Any), Err(Code::NoWatcher)),
    ];
    for (who, request, answer) in rows {
        assert_eq!(server.ask(who, &request), answer, "{request:?}");
    }
    assert_eq!(server.core.watch_counts(), Default::default());
}

#[test]
fn an_event_comes_before_the_reply_that_shows_the_change() {
    let mut server = Server::new().with_nodes(&["/a"]);
    let (client, other) = (server.connect(), server.connect());
    server.send_request(client.conn, 1, &data("/a", true));
    server.send_request(client.conn, 2, &set("/a"));
    server.send_request(client.conn, 3, &data("/a", true));
    server.send_request(other.conn, 4, &set("/a"));
    server.send_request(client.conn, 5, &data("/a", false));
    assert_eq!(
        server.told(client),
        ["#1 Ok", "NodeDataChanged /a", "#2 Ok", "#3 Ok", "NodeDataChanged /a", "#5 Ok"]
    );
    assert_eq!(server.told(other), ["#4 Ok"]);
}

#[test]
fn watches_set_again_tell_what_was_missed() {
    let mut server = Server::new().with_nodes(&["/old", "/set", "/grown", "/gone"]);
    let client = server.connect();
    server.ask(client, &create("/edge")).unwrap();
    let seen = server.core.state().last_zxid();
    for change in [set("/set"), create("/grown/x"), delete("/gone"), create("/new")] {
        server.ask(client, &change).unwrap();
    }
    let paths = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = paths(&["/old", "/set", "/grown", "/gone", "/new", "/never", "/edge"]);
    let watches = Watches { data: all.clone(), exist: all.clone(), child: all };
    let persistent = paths(&["/p"]);
    let persistent_recursive = paths(&["/r"]);
    server.send_request(
        client.conn,
        -8,
        &Request::SetWatches2 { relative_zxid: seen, watches, persistent, persistent_recursive },
    );
    assert_eq!(
        server.told(client),
        [
            "NodeDataChanged /set",
            "NodeDeleted /gone",
            "NodeDataChanged /new",
            "NodeDeleted /never",
            "NodeCreated /old",
            "NodeCreated /set",
            "NodeCreated /grown",
            "NodeCreated /new",
            "NodeCreated /edge",
            "NodeChildrenChanged /grown",
            "NodeDeleted /gone",
            "NodeChildrenChanged /new",
            "NodeDeleted /never",
            "#-8 Ok",
        ]
    );
    // Data of /old, /grown and /edge, existence of /gone and /never, children of /old, /set and /edge, and two of each
    // persistent one. What happened at the zxid itself has been seen.
    assert_eq!(server.core.watch_counts().watches, 3 + 2 + 3 + 4);
    server.tell(client, &[create("/never"), set("/old"), create("/set/x"), create("/r"), create("/r/s")]);
    let told = server.told(client);
    let events: Vec<_> = told.iter().filter(|told| !told.starts_with('#')).collect();
    assert_eq!(
        events,
        [
            "NodeCreated /never",
            "NodeDataChanged /old",
            "NodeChildrenChanged /set",
            "NodeCreated /r",
            "NodeCreated /r/s"
        ]
    );
}

#[test]
fn nobody_hears_of_what_he_may_not_read() {
    let mut server = Server::new();
    let (owner, stranger) = (server.connect(), server.connect());
    let auth = Request::Auth { kind: 0, scheme: "digest".to_owned(), auth: Some(Bytes::from_static(b"o:o")) };
    server.tell(owner, &[auth]);
    server.take(owner.conn);
    for client in [owner, stranger] {
        server.ask(client, &add_watch("/", 1)).unwrap();
        assert_eq!(server.ask(client, &exists("/secret", true)), Err(Code::NoNode));
    }
    let id = Id { scheme: "auth".to_owned(), id: String::new() };
    let acl = vec![Acl { perms: Perms::ALL, scheme: id.scheme, id: id.id }];
    let secret = Request::Create(Create { path: "/secret".to_owned(), data: None, acl, flags: 0 });
    server.tell(owner, &[secret, set("/secret"), delete("/secret"), create("/open")]);
    let told = server.told(owner);
    assert_eq!(told.iter().filter(|told| told.starts_with("Node")).count(), 4, "{told:?}");
    assert_eq!(server.told(stranger), ["NodeCreated /open"]);
}

#[test]
fn whoever_holds_most_watches_makes_room_for_the_others() {
    for settings in [
        Settings { watches_max: 6, ..Settings::default() },
        Settings { watch_bytes_max: 30, ..Settings::default() },
    ] {
        let mut server = Server::with(settings);
        let (greedy, modest) = (server.connect(), server.connect());
        let _ = server.ask(modest, &exists("/modest", true));
        for path in ["/one", "/two", "/six"] {
            // The third would be the greedy one's sixth watch, and the seventh of all.
            server.tell(greedy, &[add_watch(path, 0)]);
        }
        assert_eq!(server.told(greedy).last().map(String::as_str), Some("closed"));
        assert_eq!(server.core.watch_counts().watches, 1, "the modest one's stays");

        let greedy = server.resume(greedy);
        server.ask(greedy, &add_watch("/one", 0)).unwrap();
        server.ask(greedy, &add_watch("/two", 0)).unwrap();
        // Now it is the modest one that passes the bound, and keeps its watches all the same.
        let _ = server.ask(modest, &exists("/longer", true));
        let _ = server.ask(modest, &children("/", true));
        assert_eq!(server.told(greedy), ["closed"]);
        assert_eq!(server.core.watch_counts().watches, 3);
    }
}

#[test]
fn watches_are_bounded_by_closing() {
    for settings in [
        Settings { watches_per_connection_max: 4, ..Settings::default() },
        Settings { watch_bytes_per_connection_max: 8, ..Settings::default() },
    ] {
        let mut server = Server::with(settings);
        let (client, other) = (server.connect(), server.connect());
        for path in ["/a", "/b"] {
            server.ask(client, &add_watch(path, 0)).unwrap();
            server.ask(client, &add_watch(path, 1)).unwrap();
            let _ = server.ask(other, &exists(path, true));
        }
        server.tell(client, &[exists("/c", true), Request::Ping]);
        assert_eq!(server.told(client), ["closed"]);
        assert_eq!(server.core.watch_counts().watches, 2, "those of the other stay");
        server.resume(client);
    }
}
