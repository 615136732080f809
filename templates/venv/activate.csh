# For csh and tcsh: `source @ROOT@/bin/activate.csh`; `deactivate` goes back.
alias deactivate 'test $?_AGENT_OLD_PATH != 0 && setenv PATH "$_AGENT_OLD_PATH" && unset _AGENT_OLD_PATH; rehash; unsetenv VIRTUAL_ENV; unalias deactivate'
setenv VIRTUAL_ENV '@ROOT@'
set _AGENT_OLD_PATH = "$PATH"
setenv PATH "$VIRTUAL_ENV/bin:$PATH"
rehash
