package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tqserver/tqserver/config"
)

// usageError is a mistake on the command line, and what was probably meant.
type usageError struct {
	error
	hint string
}

func (e *usageError) Unwrap() error { return e.error }

// explain makes a command and those below it answer mistakes with a hint.
func explain(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(wrongFlag)
	if !cmd.HasSubCommands() {
		check := cmd.Args
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &usageError{err, "usage: " + cmd.UseLine()}
			}
			return nil
		}
		return
	}
	cmd.Args = wrongCommand
	if cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	for _, sub := range cmd.Commands() {
		explain(sub)
	}
}

// wrongCommand refuses a word that names no subcommand.
func wrongCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	hint := shows(cmd)
	if meant := config.Nearest(args[0], names); meant != "" {
		hint = fmt.Sprintf("did you mean `%s %s`?", cmd.CommandPath(), meant)
	}
	return &usageError{fmt.Errorf("unknown command %q for %q", args[0], cmd.CommandPath()), hint}
}

func wrongFlag(cmd *cobra.Command, err error) error {
	hint := shows(cmd)
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if meant := config.Nearest(unknown.GetSpecifiedName(), names); meant != "" {
			hint = fmt.Sprintf("did you mean --%s?", meant)
		}
	}
	return &usageError{err, hint}
}

func shows(cmd *cobra.Command) string {
	return fmt.Sprintf("`%s --help` shows how it is used", cmd.CommandPath())
}
