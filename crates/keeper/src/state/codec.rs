//! Transactions as bytes. Their length and their checksum are the log's affair.
//!
//! ```text
//! version (1 byte) · zxid · time · session · cxid · kind (1 byte) · body
//! ```

use std::io;

use bytes::Bytes;

use super::binary::{ReadError, Reader, Writer};
use super::{Edit, Txn, TxnBody};
use crate::wire::Code;

/// Raised when a reader of the version before would misunderstand.
const VERSION: u8 = 1;

const CREATE_SESSION: u8 = 1;
const CLOSE_SESSION: u8 = 2;
const ERROR: u8 = 3;
const EDITS: u8 = 4;

const CREATE: u8 = 1;
const CREATE_EPHEMERAL: u8 = 2;
const DELETE: u8 = 3;
const SET_DATA: u8 = 4;
const SET_ACL: u8 = 5;

/// Why bytes are no transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnError {
    /// Written by a version that came later.
    #[error(
        "a transaction of format {found}, of which this version knows {VERSION}: it was written by a later one"
    )]
    Version {
        /// The format's version.
        found: u8,
    },
    /// Written by nobody.
    #[error("a corrupt transaction: {0}")]
    Corrupt(&'static str),
}

impl From<ReadError> for TxnError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Io(_) => Self::Corrupt("it cannot be read"),
            ReadError::Corrupt(what) => Self::Corrupt(what),
        }
    }
}

impl Txn {
    /// The version of its format.
    pub const VERSION: u8 = VERSION;

    /// Appends the transaction.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.write_to(&mut Writer(out)).expect("writing to memory does not fail");
    }

    fn write_to(&self, out: &mut Writer<&mut Vec<u8>>) -> io::Result<()> {
        out.raw(&[VERSION])?;
        out.signed(self.zxid)?;
        out.signed(self.time_ms)?;
        out.signed(self.session)?;
        out.signed(self.cxid.into())?;
        match &self.body {
            TxnBody::CreateSession { timeout_ms, password } => {
                out.raw(&[CREATE_SESSION])?;
                out.signed((*timeout_ms).into())?;
                out.raw(password)
            }
            TxnBody::CloseSession { paths } => {
                out.raw(&[CLOSE_SESSION])?;
                out.count(paths.len())?;
                paths.iter().try_for_each(|path| out.string(path))
            }
            TxnBody::Error { code } => {
                out.raw(&[ERROR])?;
                out.signed(code.number().into())
            }
            TxnBody::Edits(edits) => {
                out.raw(&[EDITS])?;
                out.count(edits.len())?;
                edits.iter().try_for_each(|edit| write_edit(edit, out))
            }
        }
    }

    /// Reads a transaction, which must be all there is.
    ///
    /// # Errors
    /// [`TxnError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, TxnError> {
        let mut input = Reader(bytes);
        let version = input.byte()?;
        if version != VERSION {
            return Err(TxnError::Version { found: version });
        }
        let txn = Self {
            zxid: input.signed()?,
            time_ms: input.signed()?,
            session: input.signed()?,
            cxid: input.int()?,
            body: read_body(&mut input)?,
        };
        if input.0.is_empty() { Ok(txn) } else { Err(TxnError::Corrupt("something follows it")) }
    }
}

fn write_edit(edit: &Edit, out: &mut Writer<&mut Vec<u8>>) -> io::Result<()> {
    let kind = match edit {
        Edit::Create { ephemeral: false, .. } => CREATE,
        Edit::Create { ephemeral: true, .. } => CREATE_EPHEMERAL,
        Edit::Delete { .. } => DELETE,
        Edit::SetData { .. } => SET_DATA,
        Edit::SetAcl { .. } => SET_ACL,
    };
    out.raw(&[kind])?;
    out.string(edit.path())?;
    match edit {
        Edit::Create { data, acl, parent_cversion, .. } => {
            out.nullable(data.as_deref())?;
            out.acl(acl)?;
            out.signed((*parent_cversion).into())
        }
        Edit::Delete { .. } => Ok(()),
        Edit::SetData { data, version, .. } => {
            out.nullable(data.as_deref())?;
            out.signed((*version).into())
        }
        Edit::SetAcl { acl, version, .. } => {
            out.acl(acl)?;
            out.signed((*version).into())
        }
    }
}

fn read_body(input: &mut Reader<&[u8]>) -> Result<TxnBody, ReadError> {
    match input.byte()? {
        CREATE_SESSION => Ok(TxnBody::CreateSession { timeout_ms: input.int()?, password: input.array()? }),
        CLOSE_SESSION => {
            let mut paths = Vec::new();
            for _ in 0..input.unsigned()? {
                paths.push(input.string()?);
            }
            Ok(TxnBody::CloseSession { paths })
        }
        ERROR => {
            let code = Code::try_from(input.int()?).map_err(|_| ReadError::Corrupt("an unknown error"))?;
            Ok(TxnBody::Error { code })
        }
        EDITS => {
            let mut edits = Vec::new();
            for _ in 0..input.unsigned()? {
                edits.push(read_edit(input)?);
            }
            Ok(TxnBody::Edits(edits))
        }
        _ => Err(ReadError::Corrupt("an unknown kind of transaction")),
    }
}

fn read_edit(input: &mut Reader<&[u8]>) -> Result<Edit, ReadError> {
    let kind = input.byte()?;
    let path = input.string()?;
    match kind {
        CREATE | CREATE_EPHEMERAL => Ok(Edit::Create {
            path,
            data: input.nullable()?.map(Bytes::from),
            acl: input.acl()?,
            ephemeral: kind == CREATE_EPHEMERAL,
            parent_cversion: input.int()?,
        }),
        DELETE => Ok(Edit::Delete { path }),
        SET_DATA => {
            Ok(Edit::SetData { path, data: input.nullable()?.map(Bytes::from), version: input.int()? })
        }
        SET_ACL => Ok(Edit::SetAcl { path, acl: input.acl()?, version: input.int()? }),
        _ => Err(ReadError::Corrupt("an unknown kind of edit")),
    }
}
