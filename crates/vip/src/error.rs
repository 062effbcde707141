//! What can go wrong in a transition.

/// Addresses of an earlier life may still be there. Nothing of this one was started.
#[derive(Debug, thiserror::Error)]
pub enum CleanFailure {
    /// It was told to give up.
    #[error("the cleaning of virtual IPs was cancelled")]
    Cancelled,
    /// The database of addresses cannot be opened.
    #[error(transparent)]
    Database(#[from] crate::local_db::OpenError),
    /// What an earlier life left may still be there.
    #[error(transparent)]
    Left(#[from] crate::clean::Failure),
    /// The kernel does not say what there is.
    #[error("this machine's interfaces cannot be seen")]
    Kernel(#[from] crate::net::NetError),
}
