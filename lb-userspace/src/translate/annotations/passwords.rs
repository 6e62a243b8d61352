//! Users and hashed passwords in Secrets.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;

use super::access::SecretForm;
use crate::model::Password;
use crate::translate::secrets::{BadSecret, entries, value};

/// What hashed passwords begin with that can be checked. DES and unmarked plain texts can't.
const KINDS: [&str; 10] = ["$2a$", "$2b$", "$2x$", "$2y$", "$apr1$", "$1$", "$5$", "$6$", "{SHA}", "{SSHA}"];
/// nginx's mark for a password that is not hashed.
const PLAIN: &str = "{PLAIN}";

/// Users sorted by name, and how many entries of the Secret can't be used.
#[derive(Debug, PartialEq)]
pub(super) struct Users {
    pub(super) users: Vec<(Arc<str>, Password)>,
    pub(super) unusable: usize,
}

/// The users of a Secret; at least one.
pub(super) fn users(secret: &Secret, form: SecretForm) -> Result<Users, BadSecret> {
    let field = match form {
        SecretForm::File => "data[auth]",
        SecretForm::Map => "data",
    };
    let mut users = BTreeMap::new();
    let mut unusable = 0;
    let mut add = |name: &str, hash: &str| {
        let known = KINDS.iter().chain([&PLAIN]).any(|kind| hash.starts_with(kind));
        if name.is_empty() || !known {
            unusable += 1;
        } else {
            // Of two lines for one user the first counts, as in nginx.
            users.entry(Arc::from(name)).or_insert_with(|| Password(hash.into()));
        }
    };
    match form {
        SecretForm::File => {
            let file = value(secret, "auth").ok_or_else(|| BadSecret {
                field,
                cause: "auth is missing".into(),
                remedy: "Put an htpasswd file there, or set auth-secret-type to auth-map.",
            })?;
            for line in String::from_utf8_lossy(file).lines().map(str::trim_end) {
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                // What follows a second colon is a comment.
                let (name, rest) = line.split_once(':').unwrap_or((line, ""));
                let hash = if rest.starts_with(PLAIN) { rest } else { rest.split(':').next().unwrap_or("") };
                add(name, hash);
            }
        }
        SecretForm::Map => {
            for (name, hash) in entries(secret) {
                add(name, String::from_utf8_lossy(hash).trim());
            }
        }
    }
    if users.is_empty() {
        return Err(BadSecret {
            field,
            cause: "holds no user with a password that can be checked".into(),
            remedy: "Make entries with `htpasswd -B`.",
        });
    }
    Ok(Users { users: users.into_iter().collect(), unusable })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(entries: &[(&str, &str)]) -> Secret {
        let data = entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Secret { string_data: Some(data), ..Secret::default() }
    }

    #[test]
    fn forms() {
        use SecretForm::{File, Map};
        for (form, entries, expect) in [
            (File, vec![("auth", "a:$2y$05$x\nb:{SHA}y\n")], Some("a=$2y$05$x b={SHA}y +0")),
            (File, vec![("auth", "\r\n# c\r\nb:$apr1$y\r\na:$1$x\r\n")], Some("a=$1$x b=$apr1$y +0")),
            (File, vec![("auth", "a:$6$x:comment\na:$6$y")], Some("a=$6$x +0")),
            (File, vec![("auth", "a:{PLAIN}x:y")], Some("a={PLAIN}x:y +0")),
            (File, vec![("auth", "a:plain\nb:abNANd1rDfiNc\nc\n:$2y$\nd:$5$x")], Some("d=$5$x +4")),
            (File, vec![("auth", "a:plain")], None),
            (File, vec![("auth", "")], None),
            (File, vec![("a", "$2y$05$x")], None),
            (Map, vec![("b", "$2y$05$x\n"), ("a", "{SSHA}y")], Some("a={SSHA}y b=$2y$05$x +0")),
            (Map, vec![], None),
        ] {
            let shown = users(&secret(&entries), form).ok().map(|found| {
                let users = found.users.iter().map(|(name, password)| format!("{name}={} ", password.0));
                users.collect::<String>() + &format!("+{}", found.unusable)
            });
            assert_eq!(shown.as_deref(), expect, "{entries:?}");
        }
    }
}
