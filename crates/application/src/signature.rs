//! How the other side of a webhook knows that a request is ours, and fresh: `t=<seconds since 1970>,v1=<hex>`,
//! HMAC-SHA256 over `<t>.<body>`. While a key is changed there are two `v1`, one with each.

use std::fmt::Write;

use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// The header.
pub(crate) const HEADER: &str = "rowcast-signature";

/// The value of the header.
pub(crate) fn sign<'k>(
    keys: impl Iterator<Item = &'k SecretString>,
    seconds: u64,
    body: &[u8],
) -> String {
    let mut value = format!("t={seconds}");
    for key in keys {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.expose_secret().as_bytes()) else {
            continue; // HMAC takes keys of every length.
        };
        mac.update(format!("{seconds}.").as_bytes());
        mac.update(body);
        value.push_str(",v1=");
        for byte in mac.finalize().into_bytes() {
            let _ = write!(value, "{byte:02x}");
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_time_and_body_with_every_key() {
        let keys = ["Jefe", "other"].map(|key| SecretString::from(key.to_owned()));
        let one = sign(keys[..1].iter(), 1_700_000_000, b"{}");
        // From: printf '1700000000.{}' | openssl dgst -sha256 -hmac Jefe
        assert_eq!(one, EXPECTED);
        let both = sign(keys.iter(), 1_700_000_000, b"{}");
        assert!(both.starts_with(&format!("{EXPECTED},v1=")) && both.len() == one.len() + 68);
        assert_ne!(
            sign(keys[..1].iter(), 1_700_000_001, b"{}")[12..],
            one[12..]
        );
    }

    const EXPECTED: &str =
        "t=1700000000,v1=d3793e2b4103edfbd98cc19591832f5fad701d413db9fcae0ae7dab8184ed207";
}
