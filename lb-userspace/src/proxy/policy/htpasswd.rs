//! Hashed passwords as `htpasswd`, `openssl passwd` and `crypt(3)` write them.
//!
//! bcrypt (`$2y$` and its kin), Apache's and BSD's MD5 (`$apr1$`, `$1$`), SHA-crypt (`$5$`, `$6$`),
//! and nginx's `{SHA}`, `{SSHA}` and `{PLAIN}`. The old DES hash is not known: it takes eight
//! characters of a password, and every machine can try all of them.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use sha_crypt::{PasswordVerifier, ShaCrypt};

/// Most work that one check may be: about three seconds. Who writes a Secret must not be able to
/// stop everybody else's logins.
const MAX_BCRYPT_COST: u32 = 15;
const MAX_SHA_ROUNDS: u32 = 1_000_000;

/// Whether the password fits the hash. A hash of a kind that is not known fits none.
pub(super) fn verify(hash: &str, password: &[u8]) -> bool {
    if let Some(rest) = hash.strip_prefix("$apr1$") {
        return verify_md5("$apr1$", rest, password);
    }
    if let Some(rest) = hash.strip_prefix("$1$") {
        return verify_md5("$1$", rest, password);
    }
    if hash.starts_with("$2") {
        return is_payable(hash, "", MAX_BCRYPT_COST) && bcrypt::verify(password, hash).unwrap_or(false);
    }
    if hash.starts_with("$5$") || hash.starts_with("$6$") {
        return is_payable(hash, "rounds=", MAX_SHA_ROUNDS)
            && ShaCrypt::default().verify_password(password, hash).is_ok();
    }
    if let Some(sum) = hash.strip_prefix("{SHA}") {
        return STANDARD.decode(sum).is_ok_and(|sum| sum.len() == 20 && is_sha1(&sum, password, b""));
    }
    if let Some(sum) = hash.strip_prefix("{SSHA}") {
        return STANDARD
            .decode(sum)
            .is_ok_and(|sum| sum.len() >= 20 && is_sha1(&sum[..20], password, &sum[20..]));
    }
    hash.strip_prefix("{PLAIN}").is_some_and(|plain| is_same(plain.as_bytes(), password))
}

/// Whether the cost in a hash's second field is bearable.
fn is_payable(hash: &str, name: &str, most: u32) -> bool {
    match hash.split('$').nth(2).and_then(|field| field.strip_prefix(name)) {
        Some(cost) => cost.parse().is_ok_and(|cost: u32| cost <= most),
        // SHA-crypt without rounds has 5000.
        None => true,
    }
}

fn is_sha1(sum: &[u8], password: &[u8], salt: &[u8]) -> bool {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(password);
    context.update(salt);
    is_same(context.finish().as_ref(), sum)
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}

fn verify_md5(magic: &str, rest: &str, password: &[u8]) -> bool {
    let Some((salt, sum)) = rest.split_once('$') else { return false };
    let salt = &salt.as_bytes()[..salt.len().min(8)];
    is_same(&md5_crypt(magic.as_bytes(), salt, password), sum.as_bytes())
}

/// The thousand rounds of MD5 that FreeBSD's `crypt(3)` and Apache share.
fn md5_crypt(magic: &[u8], salt: &[u8], password: &[u8]) -> Vec<u8> {
    let sum = |parts: &[&[u8]]| -> [u8; 16] {
        let mut md5 = Md5::new();
        parts.iter().for_each(|part| md5.update(part));
        md5.finalize().into()
    };
    let inner = sum(&[password, salt, password]);
    let mut begin = [password, magic, salt].concat();
    begin.extend(inner.iter().cycle().take(password.len()));
    let mut bits = password.len();
    while bits > 0 {
        begin.push(if bits & 1 == 1 { 0 } else { password[0] });
        bits >>= 1;
    }
    let mut state = sum(&[&begin]);
    for round in 0..1000 {
        let (first, last) = if round & 1 == 1 { (password, &state[..]) } else { (&state[..], password) };
        let salt = if round % 3 == 0 { &[] } else { salt };
        let middle = if round % 7 == 0 { &[] } else { password };
        state = sum(&[first, salt, middle, last]);
    }
    let mut out = Vec::with_capacity(22);
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        let group = u32::from(state[a]) << 16 | u32::from(state[b]) << 8 | u32::from(state[c]);
        encode(group, 4, &mut out);
    }
    encode(state[11].into(), 2, &mut out);
    out
}

/// `crypt(3)`'s own base 64, least significant digit first.
fn encode(mut value: u32, digits: usize, out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for _ in 0..digits {
        out.push(ALPHABET[(value & 63) as usize]);
        value >>= 6;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "a much longer pass phrase, ünicode";

    /// Made by `openssl passwd` and `crypt(3)`.
    #[test]
    fn hashes() {
        for (hash, password, fits) in [
            ("$apr1$lZL6Vci1$tH37qoVYn.hqbdIV0mliI/", "secret", true),
            ("$apr1$lZL6Vci1$tH37qoVYn.hqbdIV0mliI/", "Secret", false),
            ("$apr1$lZL6Vci1$GlquxxN.GDDWBxgaD06F3.", LONG, true),
            ("$apr1$lZL6Vci1$FDJzYaEQf37gY/2IkeZP//", "", true),
            ("$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1", "secret", true),
            ("$1$abcdefgh$atunqkH/hPF6unqMC4spj1", LONG, true),
            ("$1$abcdefgh$atunqkH/hPF6unqMC4spj1", "secret", false),
            ("$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA", "secret", true),
            ("$5$saltsalt$0IyaXrmV7.sGNS6tirgqHLqX/G.FBvgkYA.lpPdS5sA", "secret ", false),
            (
                "$6$saltsalt$TVLlQcbpFVof5W3Yz4DTP6gRstiNuHwwTt6GLc1E5n0U0aDehy0S5knV8wiOQSpT0Y77vwPZN.Pq.H91p5hVO1",
                "secret",
                true,
            ),
            (
                "$6$rounds=1000$saltsalt$LAV5VE5Y7w1d73x1mFNspYWUpazfmwv2SoepNXNKJ/otop/Zok96Hr8Q13LEv0DRY/x8v0/crpIjl8NJSAqXV/",
                "secret",
                true,
            ),
            (
                "$6$rounds=99999999$saltsalt$LAV5VE5Y7w1d73x1mFNspYWUpazfmwv2SoepNXNKJ/otop/Zok96Hr8Q13LEv0DRY/x8v0/crpIjl8NJSAqXV/",
                "secret",
                false,
            ),
            ("$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secret", true),
            ("$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secret", true),
            ("$2y$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secrets", false),
            ("$2y$31$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secret", false),
            ("$2y$", "", false),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "secret", true),
            ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "", false),
            ("{SHA}", "", false),
            ("{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0", "secret", true),
            ("{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx1", "secret", false),
            ("{PLAIN}secret", "secret", true),
            ("{PLAIN}secret", "secre", false),
            // DES, a password without a hash, nothing.
            ("abNANd1rDfiNc", "secret", false),
            ("secret", "secret", false),
            ("", "", false),
        ] {
            assert_eq!(verify(hash, password.as_bytes()), fits, "{hash} {password:?}");
        }
    }
}
