//! Tests over several files of this module.

mod issue;
mod mutation;
mod openssl;
mod oracle;
mod verify;
