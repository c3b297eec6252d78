//! What a node is in its group.

use core::fmt;
use core::ops::BitOr;
use core::str::FromStr;

/// A set of roles, 16 bits. Bits without a name are kept: a newer CA may hand out roles that this version does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Roles(pub u16);

impl Roles {
    /// No role.
    pub const NONE: Self = Self(0);
    /// A full member of the group.
    pub const MEMBER: Self = Self(1);
    /// A guest: policy may give it less than a member.
    pub const GUEST: Self = Self(1 << 1);
    /// A seed: others bootstrap from it; it has no virtual address.
    pub const INFRASTRUCTURE: Self = Self(1 << 2);
    /// It offers to relay for others.
    pub const RELAY: Self = Self(1 << 3);
    /// It forwards between the group and other networks.
    pub const GATEWAY: Self = Self(1 << 4);
    /// It may write the group's records.
    pub const ADMIN: Self = Self(1 << 5);

    const NAMES: [(Self, &'static str); 6] = [
        (Self::MEMBER, "member"),
        (Self::GUEST, "guest"),
        (Self::INFRASTRUCTURE, "infrastructure"),
        (Self::RELAY, "relay"),
        (Self::GATEWAY, "gateway"),
        (Self::ADMIN, "admin"),
    ];

    /// Whether all of `roles` are in the set.
    #[must_use]
    pub const fn contains(self, roles: Self) -> bool {
        self.0 & roles.0 == roles.0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, roles: Self) -> Self {
        Self(self.0 | roles.0)
    }

    /// The names of the roles in the set that have one, in the order of their bits.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(role, _)| self.contains(*role)).map(|(_, name)| name)
    }
}

impl BitOr for Roles {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unnamed = *self;
        let mut separator = "";
        for (role, name) in Self::NAMES {
            if self.contains(role) {
                write!(f, "{separator}{name}")?;
                separator = ",";
                unnamed.0 &= !role.0;
            }
        }
        if unnamed != Self::NONE {
            write!(f, "{separator}0x{:x}", unnamed.0)?;
        }
        Ok(())
    }
}

/// A text is not a list of roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("roles are a list of member, guest, infrastructure, relay, gateway and admin, separated by commas")]
pub struct ParseRolesError;

impl FromStr for Roles {
    type Err = ParseRolesError;
    fn from_str(text: &str) -> Result<Self, ParseRolesError> {
        let mut roles = Self::NONE;
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (role, _) = Self::NAMES.into_iter().find(|(_, name)| *name == word).ok_or(ParseRolesError)?;
            roles = roles | role;
        }
        Ok(roles)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_read_back_as_they_are_written() {
        let roles = Roles::MEMBER | Roles::RELAY | Roles::ADMIN;
        assert_eq!(roles.to_string(), "member,relay,admin");
        assert_eq!("member, relay,admin".parse(), Ok(roles));
        assert_eq!("".parse(), Ok(Roles::NONE));
        assert_eq!("member,king".parse::<Roles>(), Err(ParseRolesError));
    }

    #[test]
    fn a_role_without_a_name_is_kept_and_shown() {
        let roles = Roles(0x8000) | Roles::GUEST;
        assert_eq!(roles.to_string(), "guest,0x8000");
        assert!(roles.contains(Roles::GUEST) && !roles.contains(Roles::MEMBER));
        assert_eq!(roles.names().collect::<Vec<_>>(), ["guest"]);
    }
}
