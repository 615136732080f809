//! Users of an image, as its own files have them.

use super::NativeError;
use crate::sandbox::Sandbox;

/// Who the image's program is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) ids: Option<(u32, u32)>,
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

impl Account {
    /// Looks a user up in the image: `user`, `uid`, `user:group`, `uid:gid`.
    pub(super) fn find(sandbox: &Sandbox, user: &str) -> Result<Self, NativeError> {
        let read = |path| String::from_utf8_lossy(&sandbox.file(path).unwrap_or_default()).into_owned();
        Self::parse(user, &read("etc/passwd"), &read("etc/group"))
            .ok_or_else(|| NativeError::User { user: user.to_owned() })
    }

    /// `user`, `uid`, `user:group`, `uid:gid` (image-spec, "config.User"); empty is root.
    fn parse(user: &str, passwd: &str, group: &str) -> Option<Self> {
        let (name, group_name) = user.split_once(':').map_or((user, None), |(name, group)| (name, Some(group)));
        let name = if name.is_empty() { "0" } else { name };
        let lines = |text: &str| -> Vec<Vec<String>> {
            text.lines().map(|it| it.split(':').map(str::to_owned).collect()).collect()
        };
        let accounts = lines(passwd);
        let account = accounts.iter().find(|it| it.first().is_some_and(|it| it == name)).or_else(|| {
            name.parse::<u32>().ok()?;
            accounts.iter().find(|it| it.get(2).is_some_and(|it| it == name))
        });
        let field = |index: usize| account.and_then(|it| it.get(index)?.parse::<u32>().ok());
        let uid = field(2).or_else(|| name.parse().ok())?;
        let groups = lines(group);
        let gid = match group_name {
            Some(group) => group.parse().ok().or_else(|| {
                let found = groups.iter().find(|it| it.first().is_some_and(|it| it == group))?;
                found.get(2)?.parse().ok()
            })?,
            None => field(3).unwrap_or(0),
        };
        let own = account.and_then(|it| it.first().cloned()).unwrap_or_default();
        let member =
            |it: &&Vec<String>| it.get(3).is_some_and(|it| it.split(',').any(|it| it == own && !own.is_empty()));
        let further = match group_name {
            Some(_) => Vec::new(),
            None => groups.iter().filter(member).filter_map(|it| it.get(2)?.parse().ok()).collect(),
        };
        let home = account.and_then(|it| it.get(5).cloned()).filter(|it| !it.is_empty());
        let home = home.unwrap_or_else(|| if uid == 0 { "/root" } else { "/" }.to_owned());
        Some(Self { ids: ((uid, gid) != (0, 0)).then_some((uid, gid)), groups: further, home })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nml:x:1000:1001:,,,:/home/ml:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nml:x:1001:\nvideo:x:44:ml,other\n";

    fn parse(user: &str) -> Option<Account> {
        Account::parse(user, PASSWD, GROUP)
    }

    fn account(ids: Option<(u32, u32)>, groups: &[u32], home: &str) -> Option<Account> {
        Some(Account { ids, groups: groups.to_vec(), home: home.to_owned() })
    }

    #[test]
    fn users_are_names_or_numbers_with_or_without_a_group() {
        assert_eq!(parse(""), account(None, &[], "/root"));
        assert_eq!(parse("ml"), account(Some((1000, 1001)), &[44], "/home/ml"));
        assert_eq!(parse("1000"), parse("ml"));
        assert_eq!(parse("ml:video"), account(Some((1000, 44)), &[], "/home/ml"));
        assert_eq!(parse("7:8"), account(Some((7, 8)), &[], "/"));
        assert_eq!((parse("nobody"), parse("ml:nogroup")), (None, None));
    }
}
