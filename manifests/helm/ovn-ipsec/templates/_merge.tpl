{{- /*
Strategic merge of a patch into an object, as far as our patches go: mappings by key, where null
removes; lists of named things by name, where `$patch: delete` removes and new ones come first, as
kustomize has them; anything else is replaced.
Changes .target.
*/}}
{{- define "ovn-ipsec.merge" }}
{{- range $key, $new := .patch }}
{{- $old := index $.target $key }}
{{- if kindIs "invalid" $new }}
{{- $_ := unset $.target $key }}
{{- else if and (kindIs "map" $new) (kindIs "map" $old) }}
{{- include "ovn-ipsec.merge" (dict "target" $old "patch" $new) }}
{{- else if and (kindIs "slice" $old) (include "ovn-ipsec.named" $new) }}
{{- $kept := list }}
{{- $names := list }}
{{- range $old }}
{{- $names = append $names .name }}
{{- end }}
{{- range $change := $new }}
{{- if not (has $change.name $names) }}
{{- $kept = append $kept $change }}
{{- end }}
{{- end }}
{{- range $item := $old }}
{{- $delete := false }}
{{- range $change := $new }}
{{- if eq $change.name $item.name }}
{{- if eq (index $change "$patch" | default "") "delete" }}
{{- $delete = true }}
{{- else }}
{{- include "ovn-ipsec.merge" (dict "target" $item "patch" $change) }}
{{- end }}
{{- end }}
{{- end }}
{{- if not $delete }}
{{- $kept = append $kept $item }}
{{- end }}
{{- end }}
{{- $_ := set $.target $key $kept }}
{{- else }}
{{- $_ := set $.target $key $new }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Whether something is a list of named things: "yes" or nothing. */}}
{{- define "ovn-ipsec.named" }}
{{- if kindIs "slice" . }}
{{- $first := first . }}
{{- if kindIs "map" $first }}
{{- if hasKey $first "name" }}yes{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Settings of the base, of the platform, of a staged roll-out, of the values: later ones win. As
YAML. */}}
{{- define "ovn-ipsec.settings" }}
{{- $settings := dict }}
{{- $paths := list "base/settings.env" (printf "overlays/%s/settings.env" .Values.platform) }}
{{- if .Values.stagedRollOut }}
{{- $paths = append $paths "components/staged-roll-out/settings.env" }}
{{- end }}
{{- range $path := $paths }}
{{- range $line := $.Files.Lines $path }}
{{- if contains "=" $line }}
{{- $pair := splitn "=" 2 $line }}
{{- $_ := set $settings $pair._0 $pair._1 }}
{{- end }}
{{- end }}
{{- end }}
{{- toYaml (mergeOverwrite $settings (deepCopy .Values.settings)) }}
{{- end }}
