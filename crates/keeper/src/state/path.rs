//! Paths of znodes.

/// Whether a znode can have this path.
///
/// As ZooKeeper decides it, by UTF-16 units: nothing outside the basic plane, no controls, no private use, no
/// specials. `/` is a valid path, the empty one is not.
#[must_use]
pub fn is_valid(path: &str) -> bool {
    let Some(names) = path.strip_prefix('/') else { return false };
    names.is_empty() || names.split('/').all(is_name)
}

fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.chars().all(is_allowed)
}

/// What is outside the basic plane is two surrogates to ZooKeeper, which it does not allow.
const fn is_allowed(c: char) -> bool {
    !matches!(c, '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{e000}'..='\u{f8ff}' | '\u{fff0}'..)
}

/// The paths that cannot be deleted.
pub(super) fn is_special(path: &str) -> bool {
    matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config")
}

/// The two nodes that make a quota.
pub(super) fn is_quota(path: &str) -> bool {
    path.starts_with("/zookeeper/quota/") && matches!(name(path), "zookeeper_limits" | "zookeeper_stats")
}

/// What is before the last slash, and what is behind it. `None` where ZooKeeper does not even look for a parent.
pub(super) fn split(path: &str) -> Option<(&str, &str)> {
    if path.contains('\0') {
        return None;
    }
    path.rsplit_once('/')
}

/// What is behind the last slash.
pub(super) fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The path of a parent as watches know it: `""` is the root's other name.
pub(super) fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        None | Some(("", _)) => "/",
        Some((parent, _)) => parent,
    }
}

/// The length in UTF-16 units, in which ZooKeeper counts the size of its data.
pub(super) fn units(path: &str) -> i64 {
    let units = if path.is_ascii() { path.len() } else { path.encode_utf16().count() };
    i64::try_from(units).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_path_utils() {
        let valid = [
            "/",
            "/a",
            "/a/b",
            "/a.b",
            "/...",
            "/.a",
            "/a..",
            "/ ",
            "/é",
            "/\u{a0}",
            "/\u{d7ff}",
            "/\u{f900}",
            "/\u{ffef}",
        ];
        for path in valid {
            assert!(is_valid(path), "{path:?}");
        }
        let invalid = [
            "",
            "a",
            "a/b",
            "//",
            "/a/",
            "//a",
            "/a//b",
            "/.",
            "/..",
            "/a/./b",
            "/a/../b",
            "/a/.",
            "/a/..",
            "/\0",
            "/a\0b",
            "/\u{1}",
            "/\u{1f}",
            "/\u{7f}",
            "/\u{9f}",
            "/\u{e000}",
            "/\u{f8ff}",
            "/\u{fff0}",
            "/\u{fffd}",
            "/\u{ffff}",
            "/😀",
        ];
        for path in invalid {
            assert!(!is_valid(path), "{path:?}");
        }
    }

    #[test]
    fn a_parent_is_what_is_before_the_last_slash() {
        assert_eq!(split("/a/b"), Some(("/a", "b")));
        assert_eq!(split("/a"), Some(("", "a")));
        assert_eq!(split("//"), Some(("/", "")));
        assert_eq!(split("a"), None);
        assert_eq!(split("/a\0/b"), None);
        assert_eq!(parent("/a"), "/");
        assert_eq!(parent("/a/b"), "/a");
    }
}
