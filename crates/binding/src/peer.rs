use napi_derive::napi;

/// The process at the other end of a connection.
#[napi(object, object_from_js = false)]
pub struct Peer {
  /// Its process; null where the kernel does not tell.
  #[napi(ts_type = "number | null")]
  pub pid: napi::Either<i32, napi::bindgen_prelude::Null>,
  /// Its user.
  pub uid: u32,
  /// Its group.
  pub gid: u32,
  /// Its supplementary groups.
  pub groups: Option<Vec<u32>>,
  /// Its security label.
  pub label: Option<String>,
}

impl From<fdpass_core::Peer> for Peer {
  fn from(fdpass_core::Peer { credentials, groups, label }: fdpass_core::Peer) -> Self {
    Self {
      pid: credentials.pid.map_or(napi::Either::B(napi::bindgen_prelude::Null), napi::Either::A),
      uid: credentials.uid,
      gid: credentials.gid,
      groups,
      label: label.map(|label| String::from_utf8_lossy(&label).into_owned()),
    }
  }
}
