# Written by dumm_tools/_docs.py from completions/fish.in: edit that.
# The command prints what it offers, one per line: a type, a comma, a value and, after a tab, its
# description. `part` is a value that goes on, such as a directory's: it ends in a slash.
function _dumm_console_completion
    set -l response (env _DUMM_CONSOLE_COMPLETE=fish_complete COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) dumm-console)

    for completion in $response
        set -l metadata (string split -m 1 "," $completion)

        switch $metadata[1]
            case dir
                __fish_complete_directories $metadata[2]
            case file
                __fish_complete_path $metadata[2]
            case plain part
                echo $metadata[2]
        end
    end
end

complete --no-files --command dumm-console --arguments "(_dumm_console_completion)"
