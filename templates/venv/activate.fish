# For fish: `source @ROOT@/bin/activate.fish`; `deactivate` goes back.
function deactivate
    if set -q _AGENT_OLD_PATH
        set -gx PATH $_AGENT_OLD_PATH
        set -e _AGENT_OLD_PATH
    end
    set -e VIRTUAL_ENV
    functions -e deactivate
end

set -gx VIRTUAL_ENV '@ROOT@'
set -gx _AGENT_OLD_PATH $PATH
set -gx PATH "$VIRTUAL_ENV/bin" $PATH
set -e PYTHONHOME
