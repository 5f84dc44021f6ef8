{
  description = "The programs that agent-recipes needs from the system, for people on Nix";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-25.11";

  outputs =
    { self, nixpkgs }:
    let
      eachSystem =
        make:
        nixpkgs.lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (
          system: make nixpkgs.legacyPackages.${system}
        );

      programs =
        pkgs: with pkgs; [
          # The set-up begins with pip, which installs the pinned uv that it goes on with.
          (python311.withPackages (packages: [ packages.pip ]))
          python312
          uv
          apptainer
          slurm
          tmux
          squashfsTools
          bubblewrap
          git
          gnumake
          gcc
        ];

      # What packages of Python's index link to and do not bring with them.
      libraries = pkgs: pkgs.lib.makeLibraryPath [ pkgs.stdenv.cc.cc.lib pkgs.zlib pkgs.numactl ];

      # In a checkout, not in the copy of it that Nix makes, which nothing can be written to.
      make = pkgs: target: {
        type = "app";
        program = toString (
          pkgs.writeShellScript "agent-recipes-${target}" ''
            if [ ! -f envs/stacks.toml ]; then
              echo "nix run .#${target}: not in a checkout of agent-recipes; change to its folder" >&2
              exit 2
            fi
            export PATH=${pkgs.lib.makeBinPath (programs pkgs)}:$PATH
            export LD_LIBRARY_PATH=${libraries pkgs}
            exec make ${target}
          ''
        );
      };
    in
    {
      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = programs pkgs;
          LD_LIBRARY_PATH = libraries pkgs;
        };
      });

      apps = eachSystem (pkgs: {
        demo = make pkgs "demo";
        test = make pkgs "test";
      });
    };
}
