//! The numbers of the protocol: op codes and error codes.

/// Declares a fieldless enum with explicit `i32` values, and the conversions in both directions.
macro_rules! numbered {
    ($(#[$meta:meta])* $name:ident, $what:literal { $($(#[$doc:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(i32)]
        pub enum $name {
            $($(#[$doc])* $variant = $value,)+
        }

        impl $name {
            /// Every value, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> i32 {
                self as i32
            }
        }

        impl TryFrom<i32> for $name {
            type Error = $crate::wire::DecodeError;

            fn try_from(number: i32) -> Result<Self, $crate::wire::DecodeError> {
                match number {
                    $($value => Ok(Self::$variant),)+
                    _ => Err($crate::wire::DecodeError::UnknownNumber { what: $what, number }),
                }
            }
        }
    };
}
pub(super) use numbered;

numbered! {
    /// The kind of a request, as its header carries it.
    OpCode, "op code" {
        /// Never sent by a client.
        Notification = 0,
        /// Creates a znode, answers with its path.
        Create = 1,
        /// Deletes a znode.
        Delete = 2,
        /// Asks for the stat of a znode.
        Exists = 3,
        /// Asks for data and stat.
        GetData = 4,
        /// Replaces the data.
        SetData = 5,
        /// Asks for the ACL and the stat.
        GetAcl = 6,
        /// Replaces the ACL.
        SetAcl = 7,
        /// Asks for the names of the children.
        GetChildren = 8,
        /// Waits until the server has seen what was committed before.
        Sync = 9,
        /// Keeps the session alive.
        Ping = 11,
        /// Asks for the names of the children and the stat.
        GetChildren2 = 12,
        /// Checks a version; of use inside a multi only.
        Check = 13,
        /// Writes, all or none.
        Multi = 14,
        /// Creates a znode, answers with its path and stat.
        Create2 = 15,
        /// Changes the ensemble.
        Reconfig = 16,
        /// Asks whether a watch is set.
        CheckWatches = 17,
        /// Removes watches.
        RemoveWatches = 18,
        /// Creates a container znode.
        CreateContainer = 19,
        /// Deletes an empty container; sent by ZooKeeper to itself.
        DeleteContainer = 20,
        /// Creates a znode with a time to live.
        CreateTtl = 21,
        /// Several reads in one request.
        MultiRead = 22,
        /// Adds an identity to the connection.
        Auth = 100,
        /// Sets watches again after a reconnect.
        SetWatches = 101,
        /// A step of a SASL exchange.
        Sasl = 102,
        /// Asks for the session's ephemerals.
        GetEphemerals = 103,
        /// Asks for the number of all descendants.
        GetAllChildrenNumber = 104,
        /// `SetWatches` with persistent watches.
        SetWatches2 = 105,
        /// Adds a persistent watch.
        AddWatch = 106,
        /// Asks for the connection's identities.
        WhoAmI = 107,
        /// Opens a session; made by the server from a connect request.
        CreateSession = -10,
        /// Closes the session.
        CloseSession = -11,
        /// Marks a failed op in the results of a multi.
        Error = -1,
    }
}

numbered! {
    /// What came of a request, as the reply's header carries it (`KeeperException.Code`).
    Code, "error code" {
        /// No error.
        Ok = 0,
        /// Below this and above `ApiError`: the fault of the system.
        SystemError = -1,
        /// In the results of a multi: not tried, or undone, because another op failed.
        RuntimeInconsistency = -2,
        /// Data was found inconsistent.
        DataInconsistency = -3,
        /// Made by clients: the connection was lost.
        ConnectionLoss = -4,
        /// The body of the request could not be read.
        MarshallingError = -5,
        /// The server does not implement the request.
        Unimplemented = -6,
        /// Made by clients: no answer in time.
        OperationTimeout = -7,
        /// An argument is not valid.
        BadArguments = -8,
        /// Between servers only.
        UnknownSession = -12,
        /// A reconfiguration would have no quorum.
        NewConfigNoQuorum = -13,
        /// Another reconfiguration is under way.
        ReconfigInProgress = -14,
        /// From here down: the answer to a request that was understood.
        ApiError = -100,
        /// The znode, or its parent, does not exist.
        NoNode = -101,
        /// The ACL does not allow it.
        NoAuth = -102,
        /// The version given is not the version found.
        BadVersion = -103,
        /// An ephemeral cannot have children.
        NoChildrenForEphemerals = -108,
        /// The znode exists already.
        NodeExists = -110,
        /// The znode has children.
        NotEmpty = -111,
        /// The session is gone.
        SessionExpired = -112,
        /// Made by clients.
        InvalidCallback = -113,
        /// The ACL is empty or names what cannot be.
        InvalidAcl = -114,
        /// The credentials were refused.
        AuthFailed = -115,
        /// The session has moved to another server.
        SessionMoved = -118,
        /// A write was sent to a read-only server.
        NotReadOnly = -119,
        /// An ephemeral on a session that only one server knows.
        EphemeralOnLocalSession = -120,
        /// There is no such watch.
        NoWatcher = -121,
        /// The request took too long.
        RequestTimeout = -122,
        /// Reconfiguration is switched off.
        ReconfigDisabled = -123,
        /// The server wants a SASL login first.
        SessionClosedRequireSaslAuth = -124,
        /// A quota would be exceeded.
        QuotaExceeded = -125,
        /// The server is overloaded.
        ThrottledOp = -127,
    }
}
