//! What the numbers of MySQL's and MariaDB's errors mean.

use crate::Fault;

/// What kind of trouble this is.
pub(super) fn fault(number: u16) -> Fault {
    match number {
        1205 | 1213 | 1969 | 3024 | 3572 => Fault::Locked,
        1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 => Fault::Denied,
        1049 | 1051 | 1054 | 1146 => Fault::Missing,
        1062 => Fault::Duplicate,
        3 | 1021 | 1026 | 1114 => Fault::Full,
        1036 => Fault::ReadOnly,
        // 1047: a node that left its Galera cluster.
        1047 | 1290 | 1792 | 1836 => Fault::Moved,
        1451 | 1644 => Fault::Refused,
        1665 => Fault::Binlog,
        1034 | 1035 | 126 | 127 | 145 => Fault::Corrupt,
        1040 | 1053 | 1077 | 1079 | 1129 | 1152..=1161 | 1184 | 1203 | 1226 | 1317 | 1927 => Fault::Away,
        _ => Fault::Other,
    }
}
