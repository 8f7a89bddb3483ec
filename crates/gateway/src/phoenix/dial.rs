//! The address that a client of Supabase Realtime dials. Pure.

use axum::{
    extract::{Query, Request},
    http::{HeaderMap, Uri},
};
use rowcast_wire::phoenix::Version;
use secrecy::SecretString;

/// Longest key that is looked at.
const MAX_KEY_BYTES: usize = 16 * 1024;

/// What the address says.
#[derive(Debug, Default)]
pub(crate) struct Dialed {
    /// The version of the protocol; `None`: one that is not known.
    pub(super) version: Option<Version>,
    /// The key of the project, which need not be a secret.
    pub(super) key: Option<SecretString>,
    /// It stands in the address, where everybody on the way reads it.
    pub(super) in_address: bool,
    /// The organization in which names of channels are meant.
    pub(super) organization: Option<String>,
}

impl Dialed {
    /// What a request says; `None` where it is one for a native socket.
    pub(crate) fn of(request: &Request) -> Option<Dialed> {
        Dialed::read(request.uri(), request.headers())
    }

    fn read(uri: &Uri, headers: &HeaderMap) -> Option<Dialed> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri).ok()?.0;
        let find = |name: &str| {
            let mut found = pairs.iter().filter(|(known, _)| known == name);
            found.next().map(|(_, value)| value.as_str())
        };
        let (vsn, key) = (find("vsn"), find("apikey"));
        if vsn.is_none() && key.is_none() {
            return None;
        }
        let header = headers.get("x-api-key");
        let header = header.and_then(|value| value.to_str().ok());
        let text = header.or(key).map(str::trim);
        let text = text.filter(|text| !text.is_empty() && text.len() <= MAX_KEY_BYTES);
        Some(Dialed {
            version: vsn.map_or(Some(Version::V1), Version::parse),
            key: text.map(SecretString::from),
            in_address: header.is_none(),
            organization: find("organization").map(str::to_owned),
        })
    }

    /// The same of a request to an address that only clients of this protocol know.
    pub(crate) fn expected(request: &Request) -> Dialed {
        Dialed::of(request).unwrap_or(Dialed {
            version: Some(Version::V1),
            ..Dialed::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn read(address: &str, header: Option<&str>) -> Option<(Option<Version>, String, bool)> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert("x-api-key", header.parse().unwrap());
        }
        let dialed = Dialed::read(&address.parse().unwrap(), &headers)?;
        let key = dialed.key.as_ref();
        let key = key.map_or("-", |key| key.expose_secret()).to_owned();
        Some((dialed.version, key, dialed.in_address))
    }

    #[test]
    fn a_key_or_a_version_tells_the_protocols_apart() {
        assert_eq!(read("/realtime/v1/websocket", None), None);
        assert_eq!(read("/realtime/v1/websocket?x=1", Some("k")), None);
        let says = |version, key: &str, in_address| Some((version, key.to_owned(), in_address));
        for (address, header, dialed) in [
            ("/w?apikey=a", None, says(Some(Version::V1), "a", true)),
            (
                "/w?apikey=a&vsn=2.0.0",
                None,
                says(Some(Version::V2), "a", true),
            ),
            ("/w?vsn=1.0.0", None, says(Some(Version::V1), "-", true)),
            (
                "/w?vsn=1.0.0&apikey=",
                None,
                says(Some(Version::V1), "-", true),
            ),
            ("/w?vsn=3.0.0&apikey=a", None, says(None, "a", true)),
            (
                "/w?vsn=2.0.0&apikey=a",
                Some("b"),
                says(Some(Version::V2), "b", false),
            ),
            (
                "/w?log_level=info&vsn=2.0.0&apikey=a%2Eb",
                None,
                says(Some(Version::V2), "a.b", true),
            ),
        ] {
            assert_eq!(read(address, header), dialed, "{address}");
        }
    }

    #[test]
    fn the_key_is_not_printed() {
        let headers = HeaderMap::new();
        let dialed = Dialed::read(&"/w?apikey=geheim".parse().unwrap(), &headers);
        assert!(!format!("{dialed:?}").contains("geheim"));
    }
}
