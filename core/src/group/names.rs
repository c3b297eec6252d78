//! What groups, users and nodes may be called.

/// Longest name of a node in bytes (a DNS label, RFC 1035 section 2.3.4).
pub const MAX_NODE_NAME_LEN: usize = 63;
/// Longest name of a user in bytes. X.520 allows 64 characters in the attributes that carry it.
pub const MAX_USER_NAME_LEN: usize = 64;
/// Longest name of a group in bytes. It stands twice in a certificate (issuer and subject), so it is what keeps the longest one below 900 bytes.
pub const MAX_GROUP_NAME_LEN: usize = 48;

/// A name is not allowed. `what` says whose name it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It has no characters.
    #[error("the name of a {what} is empty")]
    Empty {
        /// Whose name it is.
        what: &'static str,
    },
    /// It is longer than allowed.
    #[error("the name of a {what} has at most {max} bytes")]
    TooLong {
        /// Whose name it is.
        what: &'static str,
        /// The limit in bytes.
        max: usize,
    },
    /// It holds a character that is not allowed.
    #[error("the name of a {what} must not contain {character:?}")]
    Character {
        /// Whose name it is.
        what: &'static str,
        /// The first character that is not allowed.
        character: char,
    },
    /// It starts or ends with a character that is allowed only inside.
    #[error("the name of a {what} must not start or end with {character:?}")]
    Edge {
        /// Whose name it is.
        what: &'static str,
        /// The character.
        character: char,
    },
    /// Resolvers read it as an address or as the host itself.
    #[error("a {what} must not be called that: resolvers read it as an address or as the host itself")]
    Reserved {
        /// Whose name it is.
        what: &'static str,
    },
}

/// Checks the name of a node: a DNS label of lower-case letters, digits and inner hyphens.
///
/// # Errors
/// What is wrong with it. A label of digits only (or `0x` and hexadecimal digits) and `localhost` are refused too: resolvers would never ask for it as a name.
pub fn check_node_name(name: &str) -> Result<(), NameError> {
    let what = "node";
    check_length(what, name, MAX_NODE_NAME_LEN)?;
    if let Some(character) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-')) {
        return Err(NameError::Character { what, character });
    }
    if name.starts_with('-') || name.ends_with('-') {
        return Err(NameError::Edge { what, character: '-' });
    }
    let is_number = name.bytes().all(|b| b.is_ascii_digit())
        || name.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    if is_number || name == "localhost" {
        return Err(NameError::Reserved { what });
    }
    Ok(())
}

/// Checks the name of a user: UTF-8 of 1 to 64 bytes without control characters, without characters that turn the direction of writing and without
/// white space at its ends.
///
/// # Errors
/// What is wrong with it.
pub fn check_user_name(name: &str) -> Result<(), NameError> {
    check_text("user", name, MAX_USER_NAME_LEN)
}

/// Checks the name of a group: as for users but at most 48 bytes, and fit to be a part of a file name.
///
/// # Errors
/// What is wrong with it.
pub fn check_group_name(name: &str) -> Result<(), NameError> {
    let what = "group";
    check_text(what, name, MAX_GROUP_NAME_LEN)?;
    if let Some(character) = name.chars().find(|c| matches!(c, '/' | '\\')) {
        return Err(NameError::Character { what, character });
    }
    if name.starts_with('.') {
        return Err(NameError::Edge { what, character: '.' });
    }
    Ok(())
}

fn check_length(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    match name.len() {
        0 => Err(NameError::Empty { what }),
        len if len > max => Err(NameError::TooLong { what, max }),
        _ => Ok(()),
    }
}

fn check_text(what: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    check_length(what, name, max)?;
    // Whoever sees a name in a list or a log must see what was signed: no line breaks, no invisible or reordering characters.
    if let Some(character) = name.chars().find(|c| c.is_control() || is_invisible(*c)) {
        return Err(NameError::Character { what, character });
    }
    let edges = [name.chars().next(), name.chars().next_back()];
    match edges.into_iter().flatten().find(|c| c.is_whitespace()) {
        Some(character) => Err(NameError::Edge { what, character }),
        None => Ok(()),
    }
}

const fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_node_name_is_a_dns_label() {
        for good in ["a", "db-1", "0xg", "x1", "1a", &"a".repeat(63), "xn--bcher-kva"] {
            assert_eq!(check_node_name(good), Ok(()), "{good}");
        }
        assert_eq!(check_node_name(""), Err(NameError::Empty { what: "node" }));
        assert_eq!(check_node_name(&"a".repeat(64)), Err(NameError::TooLong { what: "node", max: 63 }));
        assert_eq!(check_node_name("Db"), Err(NameError::Character { what: "node", character: 'D' }));
        assert_eq!(check_node_name("a.b"), Err(NameError::Character { what: "node", character: '.' }));
        assert_eq!(check_node_name("a\n"), Err(NameError::Character { what: "node", character: '\n' }));
        assert_eq!(check_node_name("ä"), Err(NameError::Character { what: "node", character: 'ä' }));
        assert_eq!(check_node_name("-a"), Err(NameError::Edge { what: "node", character: '-' }));
        assert_eq!(check_node_name("a-"), Err(NameError::Edge { what: "node", character: '-' }));
    }

    #[test]
    fn a_node_name_that_resolvers_take_for_an_address_is_refused() {
        for name in ["123", "0", "0x", "0x7f000001", "localhost"] {
            assert_eq!(check_node_name(name), Err(NameError::Reserved { what: "node" }), "{name}");
        }
    }

    #[test]
    fn user_and_group_names_are_readable_text() {
        for good in ["alice", "alice@example.org", "Zoë 李", &"u".repeat(48)] {
            assert_eq!(check_user_name(good), Ok(()), "{good}");
            assert_eq!(check_group_name(good), Ok(()), "{good}");
        }
        assert_eq!(check_user_name(&"ä".repeat(33)), Err(NameError::TooLong { what: "user", max: 64 }));
        assert_eq!(check_group_name(&"g".repeat(49)), Err(NameError::TooLong { what: "group", max: 48 }));
        assert_eq!(check_user_name("a\tb"), Err(NameError::Character { what: "user", character: '\t' }));
        assert_eq!(check_user_name("a\u{202e}b"), Err(NameError::Character { what: "user", character: '\u{202e}' }));
        assert_eq!(check_user_name(" a"), Err(NameError::Edge { what: "user", character: ' ' }));
        assert_eq!(check_group_name("a/b"), Err(NameError::Character { what: "group", character: '/' }));
        assert_eq!(check_group_name(".."), Err(NameError::Edge { what: "group", character: '.' }));
    }

    proptest! {
        #[test]
        fn no_text_panics_a_check(text in any::<String>()) {
            let _ = (check_node_name(&text), check_user_name(&text), check_group_name(&text));
        }
    }
}
